# shellcheck shell=bash disable=SC2016
# Makes a small installed system: base.sh CODENAME DIRECTORY SOURCES ARCHITECTURE
set -eu
packages=passwd,login,systemd,systemd-sysv,dbus,libpam-systemd,polkitd,udev,kmod,ifupdown,iproute2,iptables,nftables,openvpn,curl
packages=$packages,bind9-dnsutils,iputils-ping,openssh-server,sudo,libcap2-bin,procps,netcat-openbsd,less,ca-certificates
# Its test of foreign architectures wants binfmt-support.
mmdebstrap --variant=apt --mode=root --architectures="$4" --skip=check/qemu --include="$packages" --skip=cleanup/apt/lists \
    --customize-hook='rm -f "$1/etc/machine-id" && systemd-machine-id-setup --root="$1"' \
    --customize-hook='rm -f "$1/etc/resolv.conf" && echo system >"$1/etc/hostname"' \
    --customize-hook='printf "127.0.0.1 localhost\n127.0.1.1 system\n" >"$1/etc/hosts"' \
    --customize-hook='for user in alice bob; do chroot "$1" useradd -m -s /bin/bash "$user"; done' \
    "$1" "$2" - <"$3"
