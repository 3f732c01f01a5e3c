# shellcheck shell=bash disable=SC2034,SC2154
# AppArmor's profiles of openvpn and wg. Ubuntu 25.04 and later have them; elsewhere these take their place, which allow
# what the programs usually need.

prepare() {
    start_openvpn
    start_wireguard
    install_profile openvpn '
        include <abstractions/nameservice>
        include <abstractions/openssl>
        capability net_admin,
        network,
        file rw /dev/net/tun,
        file r /etc/openvpn/**,
        file r @{PROC}/**,
        file mr /usr/{bin,sbin}/openvpn,'
    install_profile wg '
        capability net_admin,
        network netlink raw,
        file r /etc/wireguard/**,
        file mr /usr/bin/wg,'
}

install_profile() {
    [ ! -e "$root/etc/apparmor.d/$1" ] || return 0
    printf 'include <tunables/global>\nprofile %s /usr/{bin,sbin}/%s {\ninclude <abstractions/base>%s\ninclude if exists <local/%s>\n}\n' \
        "$1" "$1" "$2" "$1" >"$root/etc/apparmor.d/$1"
}

enforced() {
    ok "the profile $1 is enforced" in_system "grep '^$1 (enforce)' /sys/kernel/security/apparmor/profiles"
}

scenario() {
    enforced openvpn
    enforced wg
    configure work vpn=/etc/openvpn/client/client.conf KillSwitch=yes
    build -s work
    says 'the daemon is confined' openvpn in_system 'ps -o label= -C openvpn'
    leaves_from work 10.8.0.
    clean work -f
    # As on a kernel without WireGuard.
    in_system 'echo "install wireguard /bin/false" >/etc/modprobe.d/none.conf'
    configure work WireGuard=/etc/wireguard/wg0.conf KillSwitch=yes
    build -s work
    ok 'WireGuard outside of the kernel' in_system 'pgrep -a wireguard-go'
    leaves_from work 10.9.0.
    clean work -f

    ok 'the rules are removed' in_system 'sh /usr/share/runns-exec/apparmor.sh remove'
    says 'build names AppArmor for wg' "AppArmor's profile wg denied" in_system 'runns-exec build -s work'
    configure work vpn=/etc/openvpn/client/client.conf
    says 'build names AppArmor for openvpn' "AppArmor's profile openvpn denied" in_system 'runns-exec build -s work'
    ok 'the rules come back' in_system 'sh /usr/share/runns-exec/apparmor.sh add'
    build -s work
    clean work -f
    ok 'the package is removed' in_system 'rm /etc/runns.conf; dpkg --purge runns-exec'
    refused 'no rule of ours is left' in_system 'grep -r runns /etc/apparmor.d/local'
}
