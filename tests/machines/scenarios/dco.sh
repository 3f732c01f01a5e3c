# shellcheck shell=bash disable=SC2034,SC2154
# What a tunnel carries with OpenVPN's driver in the kernel (DCO), without it, and inside a namespace of ours, which does not
# use it. Emulated processors have other ratios between their instructions than real ones: these figures are a hint.
time_limit=300

prepare() {
    start_openvpn
    internet python3 -c 'import socket, threading
def fill(peer):
    try:
        while True:
            peer.sendall(bytes(65536))
    except OSError:
        pass
with socket.create_server(("10.8.0.1", 5001)) as server:
    while True:
        threading.Thread(target=fill, args=(server.accept()[0],), daemon=True).start()' &
}

# KiB in ten seconds, by the shell command $2 of which nc is the end.
measure() {
    local bytes
    bytes=$(in_system "timeout 10 $2 nc 10.8.0.1 5001 </dev/null | wc -c")
    printf 'carried: %s: %s KiB/s\n' "$1" "$((bytes / 10240))"
}

# A client on the host itself, with the options $2...
client() {
    local name=$1
    shift
    in_system "openvpn --cd /etc/openvpn/client --config client.conf --route-nopull --dev t0 --dev-type tun --daemon \
        --writepid /run/client.pid $*"
    wait_for 30 "$name: the tunnel" in_system 'ip -brief address show dev t0 | grep -F 10.8.0.'
    in_system 'ip -details link show dev t0'
    measure "$name" ''
    # shellcheck disable=SC2016 # expanded in the system
    in_system 'kill $(cat /run/client.pid)'
    wait_for 10 "$name: its end" in_system '! ip link show dev t0'
}

scenario() {
    if ! in_system 'modprobe ovpn'; then
        not_run 'the driver in the kernel' "$(in_system 'uname -r') has none"
        return
    fi
    configure work vpn=/etc/openvpn/client/client.conf KillSwitch=yes
    local round
    for round in 1 2 3 4 5; do
        client 'with the driver'
        client 'without it' --disable-dco
        build -s work
        measure 'in a namespace' 'runns-exec work --'
        clean work -f
    done
}
