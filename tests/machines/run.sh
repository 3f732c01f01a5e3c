#!/bin/bash
# Boots Debian with its own kernel in qemu and tries runns-exec there.
#
#   sudo tests/machines/run.sh [debian12|debian13|testing|debian13-arm64]... [SCENARIO]...
#
# Without a release: on all but debian13-arm64. Without a scenario: all of tests/machines/scenarios; those of tests/systems
# can be named, too. KVM is not needed: without it, everything takes 10 to 20 times as long. The images are kept in
# target/machines, the log of each scenario in target/machines/logs. The network, the users and the files of this machine
# stay as they are.
#
#   RUNNS_SYSTEMS_MIRROR   a mirror of Debian; without it, the one that this machine's apt uses
#   RUNNS_MACHINES_JOBS    how many machines to run at a time (default: 1)
set -euo pipefail
umask 022
exec </dev/null
here=$(cd "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
source=$(cd "$here/../.." && pwd)
export PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
kind=machines
target=${CARGO_TARGET_DIR:-$source/target}
# Installed systems are those of tests/systems.
cache=$target/systems
images=$target/machines
logs=$images/logs
jobs=${RUNNS_MACHINES_JOBS:-1}
# Of the limits of time.
slower=10
releases_native=(debian12 debian13 testing)
releases_known=("${releases_native[@]}" debian13-arm64)
formats='tar deb'

# shellcheck source=tests/systems/making.sh
. "$source/tests/systems/making.sh"
needed="$needed qemu-system-x86_64:qemu-system-x86 mke2fs:e2fsprogs wireguard-go:wireguard-go wg:wireguard-tools"

# The kernel, and what watches over daemons.
packages_of_kind() {
    echo "linux-image-$(architecture "$1")" initramfs-tools apparmor apparmor-profiles apparmor-utils wireguard-tools wireguard-go
}

# Makes the packages for aarch64, and lets the programs of a disk run here while it is made: by qemu's user emulation,
# which is registered until the last mount of binfmt_misc is gone, unless the machine has it anyway.
prepare_arm64() {
    local registered=/proc/sys/fs/binfmt_misc
    needed="$needed qemu-system-aarch64:qemu-system-arm qemu-aarch64-static:qemu-user-static"
    install_tools
    mount -t binfmt_misc binfmt_misc "$registered"
    [ -e "$registered/qemu-aarch64" ] || cat /usr/lib/binfmt.d/qemu-aarch64.conf >"$registered/register"
    "$systems/run.sh" debian13 rust
}

# Makes the disk of what is in $layer, once, with its kernel and an initrd that has what qemu's devices need.
after_layer() {
    local stamp
    stamp=$(cat "$cache/$1/stamp" "$here/image.sh" | sha256sum)
    [ "$(cat "$layer/machine/stamp" 2>/dev/null)" != "$stamp" ] || return 0
    printf 'making the disk of %s\n' "$1"
    mkdir -p "$layer/machine"
    if ! unshare --mount bash "$here/image.sh" "$cache/$1" "$layer" >"$logs/$1.image" 2>&1; then
        tail -n 20 "$logs/$1.image" >&2
        fail "cannot make a disk: see $logs/$1.image"
    fi
    printf '%s\n' "$stamp" >"$layer/machine/stamp"
}

choose "$@"
[ ${#releases[@]} -gt 0 ] || releases=("${releases_native[@]}")
[ ${#scenarios[@]} -gt 0 ] || all_scenarios
if [[ ${releases[*]} == *-arm64* ]]; then
    [ "$(id -u)" = 0 ] || fail 'cannot boot systems: sudo tests/machines/run.sh'
    [ -n "${RUNNS_MACHINES_UNSHARED:-}" ] || RUNNS_MACHINES_UNSHARED=yes exec unshare --mount bash "${BASH_SOURCE[0]}" "$@"
    prepare_arm64
fi
run_all
