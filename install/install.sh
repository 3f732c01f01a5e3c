#!/bin/sh
# Builds and installs runns-exec. Must be run as root; run it again to upgrade.
#
#   PREFIX    where to install (default: /usr/local)
#   DESTDIR   install below this directory instead of /. If it contains a system (it has an etc/group), the group is
#             created there. Otherwise (a package is being staged), the program belongs to root:root, or to a caller who
#             is not root, and nobody else can access it; the package's own script must then do what finish_program does.
#
# For packagers and tests:
#   RUNNS_EXEC_BINARY       install this program instead of building one; runns-exec-root is beside it
#   RUNNS_EXEC_COMPLETIONS  a directory with runns-exec.bash, _runns-exec and runns-exec.fish, to be used as they are
set -eu
umask 022

group=runns
capabilities=cap_net_admin,cap_sys_admin=p
prefix=${PREFIX:-/usr/local}
destdir=${DESTDIR:-}
source=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
temporary=

fail() {
    printf 'install.sh: %s\n' "$1" >&2
    shift
    for hint in "$@"; do
        printf 'hint: %s\n' "$hint" >&2
    done
    exit 1
}

say() {
    printf '%s\n' "$*"
}

have() {
    command -v "$1" >/dev/null 2>&1
}

is_root() {
    [ "$(id -u)" = 0 ]
}

clean_up() {
    if [ -n "$temporary" ]; then rm -rf -- "$temporary"; fi
}
trap clean_up EXIT
trap 'exit 1' HUP INT TERM

# Whether a package is being staged: there is no system below DESTDIR.
is_staging() {
    [ -n "$destdir" ] && [ ! -f "$destdir/etc/group" ]
}

check_request() {
    if ! is_root && ! is_staging; then fail 'cannot install: must be run as root' "sudo $0"; fi
    case $prefix in
        /*) ;;
        *) fail "cannot install to $prefix: PREFIX must be an absolute path" ;;
    esac
    case $destdir in
        '' | /*) ;;
        *) fail "cannot install below $destdir: DESTDIR must be an absolute path" ;;
    esac
    check_prefix
    is_root || return 0
    for tool in setcap getcap; do
        have "$tool" || fail "cannot set file capabilities: $tool is missing" \
            'install the package libcap2-bin (Debian, Ubuntu), libcap (Fedora, Arch), libcap-progs (SUSE) or libcap-utils (Alpine)'
    done
}

# Nobody but root may be able to exchange the program for root (Debian's /usr/local belonged to group staff, mode 2775).
check_prefix() {
    [ -z "$destdir" ] || return 0
    directory=$prefix
    while [ "$directory" != / ]; do
        if [ -n "$(find -H "$directory" -prune \( -perm -020 -o -perm -002 -o ! -user 0 \) 2>/dev/null)" ]; then
            fail "cannot install below $prefix: users other than root can write to $directory" 'choose another PREFIX, for example PREFIX=/opt/runns-exec'
        fi
        directory=$(dirname -- "$directory")
    done
}

# Building ---------------------------------------------------------------------------------------------------------

# The user to build as: whoever called sudo, if possible. The toolchain is usually installed in that user's home
# directory, and files built in that user's source directory should belong to that user.
builder() {
    if [ -n "${SUDO_USER:-}" ] && [ "${SUDO_USER}" != root ] && have runuser &&
        runuser -u "$SUDO_USER" -- test -w "$source" -a ! -e "$source/target" -o -w "$source/target"; then
        printf '%s\n' "$SUDO_USER"
    else
        id -un
    fi
}

# Runs a command as that user, with the user's toolchain in PATH.
as_builder() {
    user=$(builder)
    home=$(getent passwd "$user" 2>/dev/null | cut -d: -f6)
    [ -n "$home" ] || home=${HOME:-/root}
    path=$PATH:$home/.cargo/bin
    if [ -n "${SUDO_USER:-}" ]; then
        sudo_home=$(getent passwd "$SUDO_USER" 2>/dev/null | cut -d: -f6)
        path=$path:$sudo_home/.cargo/bin
        # Root uses the toolchain of the user who called sudo; rustup would look for it in root's home directory.
        if [ "$user" != "$SUDO_USER" ] && [ ! -d "$home/.rustup" ] && [ -d "$sudo_home/.rustup" ]; then
            set -- env RUSTUP_HOME="${RUSTUP_HOME:-$sudo_home/.rustup}" "$@"
        fi
    fi
    if [ "$user" = "$(id -un)" ]; then
        env PATH="$path" "$@"
    else
        runuser -u "$user" -- env HOME="$home" PATH="$path" "$@"
    fi
}

# Builds what is neither given in the environment nor contained in built/, as in the tarball that package.sh makes; sets
# $binary, $root_binary and $completions.
make_parts() {
    binary=${RUNNS_EXEC_BINARY:-}
    completions=${RUNNS_EXEC_COMPLETIONS:-}
    if [ -d "$source/built" ]; then
        binary=${binary:-$source/built/runns-exec}
        completions=${completions:-$source/built/completions}
    fi
    if [ -z "$binary" ] || [ -z "$completions" ]; then
        as_builder sh -c 'command -v cargo' >/dev/null ||
            fail 'cannot build: cargo is missing' 'install Rust 1.85 or later: https://rustup.rs'
    fi
    if [ -z "$binary" ]; then
        built=$(as_builder "$source/install/build.sh") || fail 'cannot build: cargo failed'
        binary=$built/runns-exec
    fi
    root_binary=$(dirname -- "$binary")/runns-exec-root
    for program in "$binary" "$root_binary"; do
        [ -f "$program" ] || fail "cannot install $program: no such file"
    done
    if [ -z "$completions" ]; then
        completions=$temporary
        for shell in bash:runns-exec.bash zsh:_runns-exec fish:runns-exec.fish; do
            (cd "$source" && as_builder cargo run --quiet --locked --package runns-cli --example completions -- "${shell%:*}" </dev/null) \
                >"$completions/${shell#*:}" || fail 'cannot make the completions: cargo failed'
        done
    fi
}

# Installing -------------------------------------------------------------------------------------------------------

# Creates the group if it does not exist and sets $gid to its number; when staging, $gid is empty.
make_group() {
    gid=
    if [ -n "$destdir" ]; then
        [ -f "$destdir/etc/group" ] || return 0
        grep -q "^$group:" "$destdir/etc/group" || groupadd --system --prefix "$destdir" "$group" ||
            fail "cannot create group $group in $destdir"
        gid=$(sed -n "s/^$group:[^:]*:\([0-9]*\):.*/\1/p" "$destdir/etc/group")
        return
    fi
    if ! lookup_group; then
        if have groupadd; then
            groupadd --system "$group"
        elif have addgroup; then
            addgroup -S "$group"
        else
            fail "cannot create group $group: neither groupadd nor addgroup is installed"
        fi || fail "cannot create group $group"
        lookup_group || fail "cannot find group $group after creating it"
        say "created group $group (gid $gid)"
    fi
}

lookup_group() {
    gid=$({ getent group "$group" 2>/dev/null || grep "^$group:" /etc/group; } | cut -d: -f3)
    [ -n "$gid" ]
}

# Prints the mount options of the file system that contains directory $1 (an absolute path without symbolic links).
mount_options() {
    DIRECTORY=$1 awk '
        function plain(path) { gsub(/\\040/, " ", path); gsub(/\\011/, "\t", path); gsub(/\\134/, "\\", path); return path }
        BEGIN { directory = ENVIRON["DIRECTORY"] "/" }
        {
            place = plain($5); if (place != "/") place = place "/"
            if (index(directory, place) == 1 && length(place) >= longest) { longest = length(place); options = $6 }
        }
        END { print options }' /proc/self/mountinfo
}

# Sets owner, group, mode and capabilities of program $1, in this order, because chown(2) clears capabilities.
finish_program() {
    if ! is_root; then
        chmod 0750 "$1"
        return
    fi
    chown "0:${gid:-0}" "$1"
    chmod 0750 "$1"
    setcap "$capabilities" "$1" || fail "cannot set file capabilities on $1: see the line above" \
        'the file system must support extended attributes (ext4, xfs and btrfs do; NFS, vfat and some overlays do not); choose another PREFIX'
    setcap -q -v "$capabilities" "$1" >/dev/null 2>&1 ||
        fail "cannot set file capabilities on $1: they were not kept (getcap says: $(getcap "$1"))"
}

install_program() {
    directory=$destdir$prefix/bin
    mkdir -p "$directory"
    if [ -z "$destdir" ]; then
        case ,$(mount_options "$(cd "$directory" && pwd -P)"), in
            *,nosuid,*) fail "cannot install to $directory: the file system is mounted nosuid, so file capabilities have no effect" \
                'choose another PREFIX, or remount the file system with suid' ;;
            *,noexec,*) fail "cannot install to $directory: the file system is mounted noexec" 'choose another PREFIX' ;;
        esac
    fi
    [ ! -d "$directory/runns-exec" ] || fail "cannot install $directory/runns-exec: it is a directory"
    # The program is complete before it is renamed to its final name, so an upgrade is atomic and nobody can execute an
    # incomplete program.
    program=$(mktemp "$directory/.runns-exec.XXXXXX")
    trap 'rm -f -- "$program"; clean_up' EXIT
    cat "$binary" >"$program"
    finish_program "$program"
    mv -f "$program" "$directory/runns-exec"
    trap clean_up EXIT
    say "installed $directory/runns-exec"
}

# Installs file $1 as $2, with mode 0644 or $3, by a rename: a program that is running stays as it is.
install_file() {
    [ -f "$1" ] || fail "cannot install $1: no such file"
    mkdir -p "$(dirname "$destdir$2")"
    install -m "${3:-0644}" "$1" "$destdir$2.new"
    ! is_root || chown 0:0 "$destdir$2.new"
    mv -f "$destdir$2.new" "$destdir$2"
    say "installed $destdir$2"
}

install_config() {
    target=$destdir/etc/runns.conf.d
    mkdir -p "$destdir/etc"
    [ -d "$target" ] || mkdir -m 0755 "$target"
    target=$destdir/etc/runns.conf
    if [ -e "$target" ] || [ -L "$target" ]; then
        say "kept $target"
        return
    fi
    install_file "$source/install/runns.conf" /etc/runns.conf
    # uninstall.sh compares the configuration with this copy to find out whether it has been edited.
    install_file "$source/install/runns.conf" "$prefix/share/doc/runns-exec/runns.conf"
}

# Installs everything else, by the list in install/files.
install_files() {
    while read -r from to mode; do
        case $to in
            '' | /*) ;;
            *) to=$prefix/$to ;;
        esac
        case $from in
            '' | '#'*) ;;
            completions/*) install_file "$completions/${from#*/}" "$to" ;;
            *.in)
                # What is special in the replacement of sed.
                escaped=$(printf '%s\n' "$prefix" | sed 's/[&|\\]/\\&/g')
                sed "s|@PREFIX@|$escaped|g" "$source/$from" >"$temporary/unit"
                install_file "$temporary/unit" "$to" "$mode"
                ;;
            *) install_file "$source/$from" "$to" "$mode" ;;
        esac
    done <"$source/install/files"
}

# systemd reads units once; /run/systemd/system exists where it runs (sd_booted(3)).
tell_systemd() {
    [ -z "$destdir" ] && [ -d /run/systemd/system ] || return 0
    systemctl daemon-reload || say 'note: cannot tell systemd about the unit runns@.service: systemctl daemon-reload'
    # From now on it follows a reload of nftables.service, which otherwise starts it.
    if systemctl --quiet is-active nftables.service; then
        systemctl start runns-firewall.service || say 'note: cannot start runns-firewall.service'
    fi
    case $prefix in
        /usr | /usr/local) ;;
        *) say "note: systemd does not look for units in $prefix/lib/systemd/system: systemctl link $prefix/lib/systemd/system/runns@.service" ;;
    esac
}

# Until firewalld is reloaded, it does not know the zone.
tell_firewalld() {
    if [ -z "$destdir" ] && have firewall-cmd && firewall-cmd --quiet --state 2>/dev/null &&
        ! firewall-cmd --get-zones | grep -qw runns; then
        firewall-cmd --quiet --reload && say 'reloaded firewalld, which now has the zone runns'
    fi
}

# For tunnels under the distribution's AppArmor profiles.
tell_apparmor() {
    DESTDIR=$destdir sh "$source/install/apparmor.sh" add
}

# The rule of this version is read from where it is installed. Earlier ones were to be copied.
tell_polkit() {
    [ -z "$destdir" ] || return 0
    for rules in /etc/polkit-1/rules.d/*.rules; do
        if grep -q 'runns@' "$rules" 2>/dev/null; then
            say "note: $rules is a copy of an earlier rule, which may let users run commands as root; to remove it: sudo rm $rules"
        fi
    done
}

say_what_next() {
    if [ -n "$destdir" ]; then
        [ -n "$gid" ] || say "note: $destdir has no etc/group; when the files are in place, create group $group, set the program's group, then its capabilities ($capabilities)"
        return
    fi
    for tool in nft:nftables openvpn:openvpn; do
        have "${tool%:*}" || say "note: ${tool%:*} is not installed; runns-exec build uses it (package ${tool#*:})"
    done
    case :$PATH: in
        *:"$prefix/bin":*) ;;
        *) say "note: $prefix/bin is not in PATH" ;;
    esac
    say
    say 'Next steps:'
    say "  sudo usermod -aG $group USER    let USER enter namespaces, after logging in again (or: newgrp $group)"
    say '  sudo editor /etc/runns.conf     describe a namespace'
    say '  sudo runns-exec build -s SECTION      or, now and at each boot: sudo systemctl enable --now runns@SECTION'
    say '  runns-exec NAME -- COMMAND'
}

check_request
temporary=$(mktemp -d)
make_parts
make_group
# First: runns-exec needs it.
install_file "$root_binary" "$prefix/libexec/runns-exec/runns-exec-root" 0755
install_program
install_config
install_files
tell_systemd
tell_firewalld
tell_apparmor
tell_polkit
say_what_next
