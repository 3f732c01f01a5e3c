#!/bin/sh
# Runs all tests: sudo tests/run.sh [FILTER]...
# Installs what they need (Debian, Ubuntu; elsewhere it says what is missing), builds the program as the installer
# does, and tests it on hosts of their own: the network, files, users and mounts of this machine stay as they are.
set -eu
umask 022
exec </dev/null
cd "$(dirname -- "$0")/.."
source=$(pwd)

fail() {
    printf 'run.sh: %s\n' "$1" >&2
    exit 1
}

# command:package of Debian and Ubuntu
needed='
    ip:iproute2 iptables:iptables iptables-legacy:iptables nft:nftables openvpn:openvpn openconnect:openconnect ocserv:ocserv certtool:gnutls-bin dnsmasq:dnsmasq-base tmux:tmux
    curl:curl strace:strace sudo:sudo tcpdump:tcpdump dig:bind9-dnsutils readelf:binutils setcap:libcap2-bin ping:iputils-ping ps:procps
    socat:socat wg:wireguard-tools wireguard-go:wireguard-go openssl:openssl busybox:busybox nsenter:util-linux setpriv:util-linux mountpoint:util-linux
    useradd:passwd diff:diffutils getent:libc-bin python3:python3 cc:gcc
    zsh:zsh fish:fish script:bsdutils desktop-file-validate:desktop-file-utils gio:libglib2.0-bin'

missing_packages() {
    for pair in $needed; do
        command -v "${pair%:*}" >/dev/null 2>&1 || printf '%s\n' "${pair#*:}"
    done | sort -u
}

install_packages() {
    missing=$(missing_packages | tr '\n' ' ')
    [ -n "$missing" ] || return 0
    command -v apt-get >/dev/null 2>&1 || fail "cannot run the tests: install what Debian has as: $missing"
    # No daemon that is only wanted for a test is started on this machine.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap 'rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 0755 "$policy"
    else
        policy=
    fi
    apt-get update -q
    # shellcheck disable=SC2086 # a list of words
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing
    trap - EXIT
    [ -z "$policy" ] || rm -f "$policy"
    missing=$(missing_packages | tr '\n' ' ')
    [ -z "$missing" ] || fail "cannot run the tests: still missing: $missing"
}

# What would change who answers for names on this machine, or is setuid root, is not installed: the tests unpack it on
# their own hosts.
unpacked='nscd systemd-resolved libsystemd-shared libnss-resolve avahi-daemon libavahi-core7 libavahi-common3 libdaemon0
    libnss-mdns busybox-static firejail'

fetch_packages() {
    [ -z "${RUNNS_TEST_PACKAGES:-}" ] || return 0
    RUNNS_TEST_PACKAGES=$target_dir/test-packages
    export RUNNS_TEST_PACKAGES
    mkdir -p "$RUNNS_TEST_PACKAGES"
    absent=
    for package in $unpacked; do
        ls "$RUNNS_TEST_PACKAGES/${package}_"*.deb >/dev/null 2>&1 || absent="$absent $package"
    done
    [ -n "$absent" ] || return 0
    command -v apt-get >/dev/null 2>&1 || fail "cannot run the tests: set RUNNS_TEST_PACKAGES to a directory with$absent"
    # shellcheck disable=SC2086 # a list of words
    download() { (cd "$RUNNS_TEST_PACKAGES" && apt-get download -q -o APT::Sandbox::User=root $absent); }
    download || { apt-get update -q && download; } || fail "cannot download$absent"
}

# A browser is in Debian's archive, but not in Ubuntu's.
need_browser() {
    for browser in chromium-headless-shell chromium; do
        ! command -v "$browser" >/dev/null 2>&1 || return 0
    done
    in_archive() { apt-cache policy chromium-headless-shell 2>/dev/null | grep -q 'Candidate: [0-9]'; }
    if in_archive || { apt-get update -q && in_archive; }; then
        needed="$needed chromium-headless-shell:chromium-headless-shell"
    else
        printf 'run.sh: no Chromium in the archive: the test with Chromium is left out\n' >&2
        set_aside='--skip dns::leaks::chromium'
    fi
}

# Under sudo the toolchain is usually in the home directory of the user who called it.
find_cargo() {
    for home in "${HOME:-/root}" "$(getent passwd "${SUDO_USER:-root}" | cut -d: -f6)"; do
        command -v cargo >/dev/null 2>&1 && break
        [ -x "$home/.cargo/bin/cargo" ] || continue
        PATH=$PATH:$home/.cargo/bin
        RUSTUP_HOME=${RUSTUP_HOME:-$home/.rustup}
        export PATH RUSTUP_HOME
    done
    command -v cargo >/dev/null 2>&1 || fail 'cannot build: cargo is missing; install Rust: https://rustup.rs'
}

# What root builds in a user's directory is the user's in the end.
give_back() {
    [ -z "${SUDO_UID:-}" ] || [ ! -d target ] || chown -R "$SUDO_UID:${SUDO_GID:-$SUDO_UID}" target
}

[ "$(id -u)" = 0 ] || fail 'cannot run the tests: they make namespaces: sudo tests/run.sh'
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
set_aside=
need_browser
install_packages
find_cargo
trap give_back EXIT
target_dir=${CARGO_TARGET_DIR:-$source/target}
fetch_packages

CARGO_TARGET_DIR=$target_dir
export CARGO_TARGET_DIR
RUNNS_EXEC_BINARY=$(install/build.sh)/runns-exec
RUNNS_EXEC_COMPLETIONS=$target_dir/completions
export RUNNS_EXEC_BINARY RUNNS_EXEC_COMPLETIONS
mkdir -p "$RUNNS_EXEC_COMPLETIONS"
completions() { cargo run --quiet --locked --package runns-cli --example completions -- "$1" >"$RUNNS_EXEC_COMPLETIONS/$2"; }
completions bash runns-exec.bash
completions zsh _runns-exec
completions fish runns-exec.fish

# In advance, since it takes longer than a test may. Sources without their history, as in an archive, do not contain it.
case "${*:-last_release}" in
    *last_release*)
        status=0
        tests/last-release.sh >/dev/null || status=$?
        [ "$status" != 3 ] || [ $# -gt 0 ] || set_aside="$set_aside --skip last_release::"
        ;;
esac

# A script's background job ignores these signals, and so would everything in the tests.
# shellcheck disable=SC2086 # a list of words
env --default-signal=INT,QUIT cargo test --locked --no-fail-fast --workspace --lib --tests -- $set_aside "$@"
