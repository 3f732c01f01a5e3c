# shellcheck shell=bash disable=SC2034,SC2154
# What tests/systems/run.sh and tests/machines/run.sh have in common: tools, installed systems, layers of packages above
# them, the programs, and running scenarios. The caller sets
#
#   source, here       the sources, and the directory of the caller
#   cache, logs        where installed systems are kept, and logs
#   kind               systems or machines
#   releases_known     the releases that it knows
#   jobs               how many scenarios to run at a time

systems=$source/tests/systems

fail() {
    printf 'run.sh: %s\n' "$1" >&2
    exit 1
}

# command:package of Debian and Ubuntu; the caller may add to them.
needed='mmdebstrap:mmdebstrap systemd-nspawn:systemd-container ip:iproute2 dnsmasq:dnsmasq-base openvpn:openvpn
    openssl:openssl python3:python3 nsenter:util-linux unshare:util-linux curl:curl setcap:libcap2-bin diff:diffutils
    groupadd:passwd rpmbuild:rpm ssh-keygen:openssh-client'

missing_packages() {
    local pair
    for pair in $needed; do
        command -v "${pair%:*}" >/dev/null || printf '%s\n' "${pair#*:}"
    done | sort -u
}

install_tools() {
    local missing
    mapfile -t missing < <(missing_packages)
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || fail "cannot boot systems: install what Debian has as: ${missing[*]}"
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
}

codename() {
    case $1 in
        debian12) echo bookworm ;;
        debian13*) echo trixie ;;
        testing) echo forky ;;
    esac
}

# Debian's name for the processors that release $1 runs on.
architecture() {
    case $1 in
        *-arm64) echo arm64 ;;
        *) dpkg --print-architecture ;;
    esac
}

# Lines of sources.list for release $1, from the mirrors that this machine's apt uses.
sources() {
    local suite own options=
    suite=$(codename "$1")
    # Its lists are valid for a week, which mirrors that are copied now and then exceed.
    [ "$1" != testing ] || options='[check-valid-until=no] '
    if [ -n "${RUNNS_SYSTEMS_MIRROR:-}" ]; then
        printf 'deb %s %s main\n' "$RUNNS_SYSTEMS_MIRROR" "$suite"
        return
    fi
    # shellcheck disable=SC1091
    own=$(. /etc/os-release && echo "$VERSION_CODENAME")
    # shellcheck disable=SC2016 # apt expands these.
    apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Identifier: Packages' 'Origin: Debian' |
        sort -u | sed -n "s/ $own/ $suite/; s/\(.*\)/deb $options\1 main/p"
}

# Builds the system that all scenarios of release $1 start from.
make_base() {
    local directory=$cache/$1 stamp
    sources "$1" >"$cache/sources.$1"
    [ -s "$cache/sources.$1" ] || fail "cannot find a mirror of Debian: set RUNNS_SYSTEMS_MIRROR"
    stamp=$(cat "$cache/sources.$1" "$systems/base.sh" | sha256sum)
    [ "$(cat "$directory/stamp" 2>/dev/null)" != "$stamp" ] || return 0
    printf 'making %s\n' "$1"
    rm -rf "$directory"
    mkdir -p "$directory/layers" "$directory/archives/partial"
    if ! bash "$systems/base.sh" "$(codename "$1")" "$directory/root" "$cache/sources.$1" "$(architecture "$1")" >"$logs/$1.base" 2>&1; then
        tail -n 20 "$logs/$1.base" >&2
        fail "cannot make $1: see $logs/$1.base"
    fi
    printf '%s\n' "$stamp" >"$directory/stamp"
}

# Installs packages $2... in a layer above release $1, once, and sets $layer to its directory.
make_layer() {
    local release=$1 name
    shift
    layer=
    [ $# -gt 0 ] || return 0
    # Overlay file systems separate directories by colons.
    name=$(printf '%s\n' "$@" | sort | tr '\n:' '__')
    layer=$cache/$release/layers/$name
    [ ! -e "$layer/done" ] || return 0
    printf 'installing %s on %s\n' "$*" "$release"
    rm -rf "$layer"
    mkdir -p "$layer/upper" "$layer/work"
    if ! unshare --mount --pid --fork --kill-child --mount-proc \
        bash "$systems/layer.sh" "$cache/$release" "$layer" "$@" >"$logs/$release.$name" 2>&1; then
        tail -n 20 "$logs/$release.$name" >&2
        fail "cannot install $*: see $logs/$release.$name"
    fi
    touch "$layer/done"
}

# The file of scenario $1; a machine can run those of the systems too.
scenario_file() {
    local directory
    for directory in "$here" "$systems"; do
        [ ! -f "$directory/scenarios/$1.sh" ] || { echo "$directory/scenarios/$1.sh" && return; }
    done
    fail "cannot run $1: there is no such scenario"
}

# What each scenario of the kind needs besides, on release $1.
packages_of_kind() { :; }

# The packages that scenario $1 asks for on release $2.
packages_of() {
    # shellcheck disable=SC1090 # The scenario may look at $release.
    (release=$2 packages='' && . "$(scenario_file "$1")" && echo "$(packages_of_kind "$2")" "$packages")
}

# The seconds that scenario $1 may take.
time_limit_of() {
    # shellcheck disable=SC1090
    (release='' && . "$(scenario_file "$1")" && echo "$time_limit")
}

# Builds the program, and unpacks the tarball of it in $cache/program: what scenarios install needs no toolchain. Under
# sudo the toolchain is usually in the home directory of the user who called it: the installer finds it there.
build_program() {
    rm -rf "$cache/program"
    mkdir -p "$cache/program"
    if ! FORMATS=${formats:-tar} "$source/install/package.sh" "$cache/program" >"$logs/build" 2>&1; then
        tail -n 20 "$logs/build" >&2
        fail "cannot build the program: see $logs/build"
    fi
    tar -x -z --strip-components=1 -C "$cache/program" -f "$cache/program"/*.tar.gz
}

# The crates that the programs are built from, in $cache/crates, for the scenario that builds them: it has no network. Under
# sudo, as above, the toolchain is that of the user who called it.
fetch_crates() {
    local home
    home=$(getent passwd "${SUDO_USER:-root}" | cut -d: -f6)
    rm -rf "$cache/crates"
    (cd "$source" && PATH=$PATH:$home/.cargo/bin RUSTUP_HOME=${RUSTUP_HOME:-$home/.rustup} \
        timeout 300 cargo vendor --locked "$cache/crates" >"$cache/crates.toml" 2>"$logs/crates") ||
        fail "cannot fetch the crates: see $logs/crates"
}

# Runs scenario $2 on release $1, in namespaces of its own; sets $seconds.
run_scenario() {
    local release=$1 scenario=$2 log=$logs/$2.$1 group status=0 begin time_limit
    # shellcheck disable=SC2046 # a list of words
    make_layer "$release" $(packages_of "$scenario" "$release")
    time_limit=$((${slower:-1} * $(time_limit=300 && time_limit_of "$scenario")))
    group=$cgroups/runns-$kind.$$.$release.$scenario
    mkdir "$group"
    begin=$(date +%s%N)
    (
        echo "$BASHPID" >"$group/cgroup.procs"
        exec timeout --kill-after=5 "$time_limit" unshare --mount --net --pid --cgroup --ipc --uts --fork --kill-child \
            --mount-proc bash "$systems/scenario.sh" "$source" "$cache" "$layer" "$release" "$(scenario_file "$scenario")" "$kind" >"$log" 2>&1
    ) || status=$?
    seconds=$((($(date +%s%N) - begin) / 100000000))
    seconds=$((seconds / 10)).$((seconds % 10))
    [ "$status" != 124 ] && [ "$status" != 137 ] || printf 'FAILED: not done after %s s\n' "$time_limit" >>"$log"
    remove_group "$group"
    return "$status"
}

# Runs scenario $2 on release $1 and prints, at once, what became of it.
try_scenario() {
    local log=$logs/$2.$1 status=0 report
    run_scenario "$1" "$2" || status=$?
    if [ "$status" = 0 ]; then
        report="ok      $1 $2 ($seconds s)"
    else
        report="FAILED  $1 $2 ($seconds s): see $log
$(sed -n '/^FAILED: /,/^\.$/{ /^\.$/!s/^/    /p }' "$log")"
    fi
    printf '%s\n' "$report$(sed -n 's/^not run: /\n    not run: /p' "$log")"
    return "$status"
}

# Waits for one scenario to end.
collect() {
    if wait -n; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
    fi
    running=$((running - 1))
}

# Scenarios in the background do not get the signals of a terminal.
kill_all() {
    local group
    for group in "$cgroups/runns-$kind.$$."*; do
        [ ! -d "$group" ] || echo 1 >"$group/cgroup.kill"
    done
    exit 1
}

remove_group() {
    local tries
    for tries in {1..50}; do
        ! find "$1" -depth -type d -exec rmdir {} + 2>/dev/null || return 0
        sleep 0.1
    done
    printf 'run.sh: after %s tries, processes are left in %s\n' "$tries" "$1" >&2
}

# A cgroup2 hierarchy at a path of this process's own, whatever the machine mounts.
find_cgroups() {
    cgroups=$(findmnt -n -t cgroup2 -o TARGET | head -n 1)
    [ -n "$cgroups" ] || fail 'cannot boot systems: no cgroup2 file system is mounted'
}

# What root makes in a user's directory is the user's in the end; the systems are root's.
give_back() {
    [ -z "${SUDO_UID:-}" ] || chown -R "$SUDO_UID:${SUDO_GID:-$SUDO_UID}" "$logs"
}

# What else is made of a layer for release $1.
after_layer() { :; }

# Sets releases and scenarios to those that are named by the words of the command line.
choose() {
    local word
    releases=()
    scenarios=()
    for word; do
        if [[ " ${releases_known[*]} " == *" $word "* ]]; then
            releases+=("$word")
        else
            scenario_file "$word" >/dev/null
            scenarios+=("$word")
        fi
    done
}

# Sets scenarios to all of the caller's.
all_scenarios() {
    local file
    for file in "$here"/scenarios/*.sh; do
        scenarios+=("$(basename "$file" .sh)")
    done
}

# Runs all scenarios that were chosen.
run_all() {
    local release scenario
    [ "$(id -u)" = 0 ] || fail "cannot boot systems: sudo tests/$kind/run.sh"
    install_tools
    mkdir -p "$logs"
    trap give_back EXIT
    find_cgroups
    build_program
    [[ " ${scenarios[*]} " != *' rust '* ]] || fetch_crates
    for release in "${releases[@]}"; do
        make_base "$release"
    done

    # One after the other, for scenarios share them.
    for release in "${releases[@]}"; do
        for scenario in "${scenarios[@]}"; do
            # shellcheck disable=SC2046 # a list of words
            make_layer "$release" $(packages_of "$scenario" "$release")
            after_layer "$release"
        done
    done

    passed=0
    failed=0
    running=0
    trap kill_all HUP INT TERM
    for release in "${releases[@]}"; do
        for scenario in "${scenarios[@]}"; do
            [ "$running" -lt "$jobs" ] || collect
            try_scenario "$release" "$scenario" &
            running=$((running + 1))
        done
    done
    while [ "$running" -gt 0 ]; do
        collect
    done
    printf '%s passed, %s failed\n' "$passed" "$failed"
    [ "$failed" = 0 ]
}
