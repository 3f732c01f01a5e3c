# shellcheck shell=bash
# Installs packages as an administrator would: layer.sh DIRECTORY_OF_RELEASE LAYER PACKAGE...
# Called in a mount namespace of its own. What the packages enable is started at the next boot.
set -eu
release=$1
layer=$2
shift 2
root=$layer/root
mount --make-rprivate /
mkdir -p "$root"
mount -t overlay overlay -o "lowerdir=$release/root,upperdir=$layer/upper,workdir=$layer/work" "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/run"
mkdir -p "$root/run/lock"
mount --bind "$release/archives" "$root/var/cache/apt/archives"
# Names of mirrors are looked up with this machine's resolver; no daemon starts in a chroot.
cp -L /etc/resolv.conf "$root/etc/resolv.conf"
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"
# Packages of another architecture are named PACKAGE:ARCHITECTURE.
for package; do
    [ "${package%:*}" = "$package" ] || chroot "$root" dpkg --add-architecture "${package#*:}"
done
export DEBIAN_FRONTEND=noninteractive
get() {
    chroot "$root" apt-get install -q -y --no-install-recommends -o Dpkg::Use-Pty=0 \
        -o Binary::apt::APT::Keep-Downloaded-Packages=true "$@"
}
get "$@" || { chroot "$root" apt-get update -q && get "$@"; }
rm -f "$root/usr/sbin/policy-rc.d" "$root"/var/cache/apt/*.bin
# systemd-resolved makes a link of it, which stays.
[ -L "$root/etc/resolv.conf" ] || rm -f "$root/etc/resolv.conf"
umount "$root/var/cache/apt/archives"
umount -R "$root/dev" "$root/proc" "$root/run"
umount "$root"
