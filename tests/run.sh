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
    ip:iproute2 iptables:iptables iptables-legacy:iptables nft:nftables openvpn:openvpn dnsmasq:dnsmasq-base tmux:tmux
    curl:curl strace:strace sudo:sudo tcpdump:tcpdump dig:bind9-dnsutils setcap:libcap2-bin ping:iputils-ping ps:procps
    socat:socat wg:wireguard-tools wireguard-go:wireguard-go openssl:openssl busybox:busybox nsenter:util-linux setpriv:util-linux mountpoint:util-linux
    useradd:passwd diff:diffutils getent:libc-bin python3:python3 cc:gcc
    zsh:zsh fish:fish script:bsdutils'

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
install_packages
find_cargo
trap give_back EXIT
target_dir=${CARGO_TARGET_DIR:-$source/target}

# The program as install/install.sh builds it: static, optimized.
host=$(rustc -vV | sed -n 's/^host: //p')
RUSTFLAGS='-C target-feature=+crt-static -C relocation-model=static' cargo build --release --locked --target "$host" --target-dir "$target_dir" \
    --bin runns-exec
RUNNS_EXEC_BINARY=$target_dir/$host/release/runns-exec
export RUNNS_EXEC_BINARY

cargo test --locked --no-fail-fast --lib --tests -- "$@"
