# shellcheck shell=bash disable=SC2034,SC2154
# The main job, ways beside it, tunnels of both kinds in both modes, repair, clean, and a unit at boot.

prepare() {
    start_openvpn
    start_wireguard
}

plain() {
    build -n demo || return
    use demo
    as_user alice 'runns-exec -d demo -- sleep 600' >/dev/null
    says 'list shows the program' 'sleep 600' as_user alice 'runns-exec list demo'
    clean demo -f --kill
}

# Servers on loopback addresses, inside by a published port and on the host: rules for which the kernel loads modules.
loopback() {
    configure work Publish=8080:8000 HostAccess=localhost:1143
    in_system 'systemd-run --quiet --unit=bridge nc -lk 127.0.0.1 1143'
    build -s work || return
    as_user alice 'runns-exec -d work -- nc -lk 127.0.0.1 8000' >/dev/null
    wait_for 5 'a published port' in_system 'nc -z -w 2 127.0.0.1 8080'
    ok "a server on the host's loopback" as_user alice 'runns-exec work -- nc -z -w 2 host.runns 1143'
    ok 'status with both' in_system 'runns-exec status work'
    clean work -f --kill
    in_system 'systemctl stop bridge'
}

# The section's tunnel $1, which gives an address that begins with $2, with the lines $3...
tunnel() {
    local kind=$1 address=$2
    shift 2
    configure work "$@"
    build -s work || return
    leaves_from work "$address"
    ok "$*: status" as_user alice 'runns-exec status work'
    "lose_$kind"
    refused "$*: status shows that the tunnel is lost" in_system 'runns-exec status work'
    says "$*: build repairs it" repaired in_system 'runns-exec build -s work'
    leaves_from work "$address"
    ok "$*: status after repair" in_system 'runns-exec status work'
    clean work -f
}

lose_openvpn() {
    in_system 'pkill -KILL -x openvpn'
    wait_for 5 'the end of the daemon' in_system '! pgrep -x openvpn'
}

lose_wireguard() {
    says "the kernel's WireGuard" wireguard in_system 'ip -netns work -details link show wg0'
    ok 'the device is removed' in_system 'ip -netns work link delete wg0'
}

# Under the kill switch nothing leaves while the server does not answer.
held() {
    configure work vpn=/etc/openvpn/client/client.conf KillSwitch=yes
    build -s work || return
    internet pkill -STOP -x openvpn
    no_traffic work
    internet pkill -CONT -x openvpn
    wait_for 20 'traffic when the server is back' as_user alice "runns-exec work -- curl -sS -m 10 http://$web/"
    in_system 'pkill -KILL -x openvpn'
    no_traffic work
    clean work -f
}

at_boot() {
    configure work vpn=/etc/openvpn/client/client.conf KillSwitch=yes
    ok 'the unit is enabled' in_system 'systemctl enable --now runns@work' || return
    leaves_from work 10.8.0.
    reboot
    wait_for 30 'the unit after the reboot' in_system 'systemctl is-active runns@work'
    leaves_from work 10.8.0.
    ok 'disable' in_system 'systemctl disable --now runns@work'
    refused 'it is gone' in_system 'ls /run/netns/work'
}

scenario() {
    snapshot "$scratch/before"
    plain
    loopback
    tunnel openvpn 10.8.0. vpn=/etc/openvpn/client/client.conf
    tunnel openvpn 10.8.0. vpn=/etc/openvpn/client/client.conf KillSwitch=yes
    tunnel wireguard 10.9.0. WireGuard=/etc/wireguard/wg0.conf
    tunnel wireguard 10.9.0. WireGuard=/etc/wireguard/wg0.conf KillSwitch=yes
    held
    in_system 'rm /etc/runns.conf'
    snapshot "$scratch/after"
    same 'the host is as it was' "$scratch/before" "$scratch/after"
    at_boot
}
