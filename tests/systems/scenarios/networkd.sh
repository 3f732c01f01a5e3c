# shellcheck shell=bash disable=SC2034,SC2154
# systemd-networkd holds the uplink, by DHCP.

prepare() {
    without_ifupdown
    cat >"$root/etc/systemd/network/10-uplink.network" <<'END'
[Match]
Name=eth0
[Network]
DHCP=ipv4
LinkLocalAddressing=no
END
    systemctl --root="$root" enable --quiet systemd-networkd.service
}

has_address() {
    in_system 'ip -4 -o address show eth0' | grep -q "inet $1/"
}

scenario() {
    wait_for 20 'the uplink' has_address "$address" || return
    snapshot "$scratch/before"
    build -n demo || return
    use demo
    ok 'restart' in_system 'systemctl restart systemd-networkd'
    wait_for 20 'the uplink again' has_address "$address"
    use demo
    start_dns 192.0.2.77
    ok 'another lease' in_system 'networkctl reconfigure eth0'
    wait_for 20 'another lease' has_address 192.0.2.77
    use demo 192.0.2.77
    start_dns "$address"
    ok 'the old lease' in_system 'networkctl reconfigure eth0'
    wait_for 20 'the old lease' has_address "$address"
    use demo
    clean demo -f
    snapshot "$scratch/after"
    same 'the host is as it was' "$scratch/before" "$scratch/after"

    # networkd removes routes and rules that are not its own, unless they are the kernel's.
    build -n demo -o eth0
    use demo
    ok 'restart with an uplink of its own' in_system 'systemctl restart systemd-networkd'
    wait_for 20 'the uplink after it' has_address "$address"
    ok 'the routing rule is still there' in_system 'ip rule | grep -q "fwmark 0x81000000"'
    use demo
    # When the link goes down, the kernel removes its routes, and nothing leaves until build restores them.
    ok 'the uplink is configured anew' in_system 'networkctl reconfigure eth0'
    wait_for 20 'the uplink after it' has_address "$address"
    build -n demo -o eth0
    use demo
    use demo
    clean demo -f

    reboot
    wait_for 20 'the uplink after the reboot' has_address "$address"
    build -n demo
    use demo
    clean demo -f
}
