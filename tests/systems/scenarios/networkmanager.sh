# shellcheck shell=bash disable=SC2034,SC2154
# NetworkManager holds the uplink, by DHCP.
packages=network-manager

prepare() {
    without_ifupdown
    mkdir -p "$root/etc/NetworkManager/system-connections" "$root/etc/NetworkManager/conf.d"
    cat >"$root/etc/NetworkManager/system-connections/uplink.nmconnection" <<'END'
[connection]
id=uplink
type=ethernet
interface-name=eth0
[ipv4]
method=auto
[ipv6]
method=disabled
END
    # What 85-nm-unmanaged.rules of the package says of every veth but eth*; in a container there is no udev to say it,
    # nor to have NetworkManager wait until it is said.
    printf '[main]\nno-auto-default=*\n[keyfile]\nunmanaged-devices=driver:veth,except:interface-name:eth*\n' \
        >"$root/etc/NetworkManager/conf.d/udev.conf"
    chmod 600 "$root/etc/NetworkManager/system-connections/uplink.nmconnection"
}

connected() {
    in_system 'nmcli -t -f DEVICE,STATE device' | grep -qx 'eth0:connected'
}

scenario() {
    wait_for 20 'the uplink' connected || return
    snapshot "$scratch/before"
    build -n demo || return
    use demo
    says 'NetworkManager leaves the interface alone' '172.24.0.1/24' in_system 'ip address show demo'
    ok 'restart' in_system 'systemctl restart NetworkManager'
    wait_for 20 'the uplink again' connected
    use demo
    says 'the interface has its address after the restart' '172.24.0.1/24' in_system 'ip address show demo'
    start_dns 192.0.2.77
    ok 'another lease' in_system 'nmcli device disconnect eth0 && nmcli device connect eth0'
    wait_for 20 'the uplink with another lease' connected
    says 'the address has changed' 192.0.2.77 in_system 'ip address show eth0'
    use demo 192.0.2.77
    start_dns "$address"
    ok 'the old lease' in_system 'nmcli device disconnect eth0 && nmcli device connect eth0'
    wait_for 20 'the uplink with the old lease' connected
    use demo
    clean demo -f
    snapshot "$scratch/after"
    same 'the host is as it was' "$scratch/before" "$scratch/after"

    build -n demo -o eth0
    use demo
    ok 'restart with an uplink of its own' in_system 'systemctl restart NetworkManager'
    wait_for 20 'the uplink after it' connected
    use demo
    ok 'the routing rule is still there' in_system 'ip rule | grep -q "fwmark 0x81000000"'
    clean demo -f

    reboot
    wait_for 20 'the uplink after the reboot' connected
    build -n demo
    use demo
    clean demo -f
}
