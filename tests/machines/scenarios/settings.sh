# shellcheck shell=bash disable=SC2016,SC2034,SC2154
# What administrators and hardening guides set: sysctls, mount options, and what the kernel is told when it boots.

prepare() {
    start_openvpn
    start_wireguard
    printf 'net.ipv4.conf.%s.rp_filter=1\n' all default >"$root/etc/sysctl.d/99-strict.conf"
    boot_options=ipv6.disable=1
}

# An OpenVPN tunnel without the kill switch, whose answers arrive at a device that has no route to them.
strict() {
    local how=$1
    configure work vpn=/etc/openvpn/client/client.conf
    build -s work || return
    leaves_from work 10.8.0.
    # Longer than the tunnel takes to notice that nothing arrives (keepalive 1 10).
    says "rp_filter $how: packets arrive" ' 0% packet loss' in_system 'runns-exec work -- ping -4 -c 15 -q 10.8.0.1'
    ok "rp_filter $how: status" in_system 'runns-exec status work'
    clean work -f
}

reverse_path_filter() {
    says 'namespaces inherit it' 'rp_filter = 1' in_system 'ip netns add probe && ip netns exec probe sysctl net.ipv4.conf.all.rp_filter'
    strict 'of all and new ones 1'
    in_system 'sysctl -qw net.ipv4.conf.all.rp_filter=2 net.ipv4.conf.default.rp_filter=2'
    strict 'of all and new ones 2'
    in_system 'ip netns del probe'
}

without_ipv6() {
    refused 'there is no IPv6' in_system 'test -e /proc/sys/net/ipv6'
    configure work WireGuard=/etc/wireguard/wg0.conf KillSwitch=yes
    says 'a tunnel goes without it, with a warning' 'this host has no IPv6' in_system 'runns-exec build -s work'
    leaves_from work 10.9.0.
    ok 'status' in_system 'runns-exec status work'
    clean work -f
}

# A peer or key of the kernel's WireGuard that somebody changed.
peers() {
    local peer damage
    configure work WireGuard=/etc/wireguard/wg0.conf KillSwitch=yes
    build -s work || return
    peer=$(in_system 'ip netns exec work wg show wg0 peers')
    for damage in "ip netns exec work wg set wg0 peer $peer remove" \
        'wg genkey >/root/other && ip netns exec work wg set wg0 private-key /root/other' \
        'ip -netns work link set wg0 down && ip -netns work link set wg0 name other'; do
        ok "$damage" in_system "$damage"
        refused 'status shows it' in_system 'runns-exec status work'
        says 'build repairs it' repaired in_system 'runns-exec build -s work'
        leaves_from work 10.9.0.
    done
    says 'there is no other device' '=wg0=' in_system 'printf "=%s=" $(ip netns exec work wg show interfaces)'
    clean work -f
}

hidden_processes() {
    build -n demo || return
    as_user alice 'runns-exec -d demo -- sleep 600' >/dev/null
    ok 'hidepid=2' in_system 'mount -o remount,hidepid=2 /proc'
    use demo
    says 'list shows the own program' 'sleep 600' as_user alice 'runns-exec list demo'
    says 'list -a says that others are hidden' hidepid as_user alice 'runns-exec list -a demo'
    ok 'AllowUnmanaged' in_system 'ip netns add theirs && printf "AllowUnmanaged=yes\n" >/etc/runns.conf'
    try as_user alice 'runns-exec theirs -- true'
    [ "$status" = 0 ] || says 'the reason is named' hidepid printf '%s' "$output"
    in_system 'ip netns del theirs; rm /etc/runns.conf'
    in_system 'mount -o remount,hidepid=0 /proc'
    clean demo -f --kill
}

limits() {
    local before
    before=$(in_system 'sysctl -n user.max_net_namespaces')
    in_system 'sysctl -qw user.max_net_namespaces=0'
    says 'the limit of network namespaces is named' user.max_net_namespaces in_system 'runns-exec build -n demo'
    in_system "sysctl -qw user.max_net_namespaces=$before"
    build -n demo || return
    before=$(in_system 'sysctl -n fs.mount-max')
    in_system 'sysctl -qw fs.mount-max=1'
    says 'the limit of mounts is named' fs.mount-max as_user alice 'runns-exec demo -- true'
    in_system "sysctl -qw fs.mount-max=$before"
    ok 'without the limit it works' as_user alice 'runns-exec demo -- true'
    clean demo -f
}

# After a boot, before anything has loaded what a build needs.
without_modules() {
    in_system 'sysctl -qw kernel.modules_disabled=1'
    try in_system 'runns-exec build -n demo'
    [ "$status" = 0 ] || says 'the reason is named' modules_disabled printf '%s' "$output"
}

scenario() {
    reverse_path_filter
    without_ipv6
    peers
    hidden_processes
    limits
    boot_options=
    reboot
    without_modules
}
