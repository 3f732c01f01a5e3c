#!/bin/bash
# Measures what a tunnel inside a namespace carries, compared with the same client started by hand on the host:
#
#     benches/tunnel.sh [ROUNDS]
#
# All of them are connected to one server at the same time, and measured in turns, so that other load on the machine affects
# them equally. OpenVPN is measured with its own encryption in the program (no DCO), WireGuard by wireguard-go.
# Run as root. Everything runs in namespaces of its own; the machine is not changed. Needs iperf3, python3, openvpn, openssl,
# wireguard-go and wg.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

if [ "${1:-}" != --inside ]; then
    [ "$(id -u)" = 0 ] || { echo "tunnel.sh: cannot create a sandbox: must be run as root" >&2; exit 1; }
    for tool in iperf3 openvpn openssl wireguard-go wg; do
        command -v $tool >/dev/null || { echo "tunnel.sh: cannot measure tunnels: $tool is missing" >&2; exit 1; }
    done
    ENTRY=${ENTRY:-$("$here/../install/build.sh")/runns-exec}
    export ENTRY
    exec unshare -nmpif --mount-proc --kill-child --propagation private "$here/tunnel.sh" --inside "${1:-7}"
fi
rounds=$2
# shellcheck source=benches/sandbox.sh
. "$here/sandbox.sh"

until_true() {
    local tries
    for tries in {1..200}; do
        ! "$@" >/dev/null 2>&1 || return 0
        sleep 0.1
    done
    echo "tunnel.sh: still false after $tries tries: $*" >&2
    return 1
}

# As udev makes it: everybody may open it, and only who owns a device may attach to it.
tun() {
    mknod -m 666 /run/tun c 10 200
    mount --bind /run/tun /dev/net/tun
}

# An OpenVPN server with 10.8.0.0/24, and a client's files.
openvpn_server() {
    local name
    mkdir -p /run/vpn
    cd /run/vpn
    printf '[req]\ndistinguished_name=dn\n[dn]\n' >openssl.cnf
    issue() {
        name=$1
        shift
        openssl req -config openssl.cnf -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
            -subj "/CN=$name" -keyout "$name.key" -out "$name.crt" "$@" 2>/dev/null
    }
    issue ca -addext basicConstraints=critical,CA:TRUE
    for name in server client; do
        issue "$name" -CA ca.crt -CAkey ca.key -addext keyUsage=digitalSignature -addext extendedKeyUsage="${name}Auth"
    done
    out openvpn --cd /run/vpn --mode server --tls-server --dev tun8 --proto udp --local $server --port 1194 --topology subnet \
        --server 10.8.0.0 255.255.255.0 --ca ca.crt --cert server.crt --key server.key --dh none --duplicate-cn \
        --verb 3 >server.log 2>&1 &
    until_true grep -q 'Initialization Sequence Completed' server.log
    # What is routed into the tunnel is one address: the host's own client takes no other traffic.
    printf 'client\ndev tun\nproto udp\nremote %s 1194\nnobind\nca ca.crt\ncert client.crt\nkey client.key\nverb 3\n' $server >client.conf
    out iperf3 -s -B 10.8.0.1 >/dev/null &
    # In a session of its own, as the daemons of runns-exec are: each has an equal share of the processors (sched(7),
    # autogroup), which a client in the session of this script would have to share with the server and iperf3.
    setsid openvpn --cd /run/vpn --config client.conf --verb 3 >hand.log 2>&1 &
    until_true grep -q 'Initialization Sequence Completed' hand.log
    cd /
}

# Two WireGuard peers at the server, since one key is one client: 10.20.N.1, with the file of client N.
wireguard_server() {
    local number key
    mkdir -p /run/wireguard
    out wireguard-go peer >/dev/null 2>&1
    key=$(wg genkey)
    printf '[Interface]\nPrivateKey=%s\nListenPort=51820\n' "$key" >/run/vpn/peer
    for number in 1 2 3; do
        wg genkey >"/run/vpn/key$number"
        printf '[Peer]\nPublicKey=%s\nAllowedIPs=10.20.%s.2/32\n' "$(wg pubkey <"/run/vpn/key$number")" $number >>/run/vpn/peer
        printf '[Interface]\nPrivateKey=%s\nAddress=10.20.%s.2/24\n[Peer]\nPublicKey=%s\nEndpoint=%s:51820\nAllowedIPs=10.20.%s.0/24\nPersistentKeepalive=1\n' \
            "$(cat "/run/vpn/key$number")" $number "$(wg pubkey <<<"$key")" $server $number >"/run/vpn/wg$number.conf"
    done
    out wg setconf peer /run/vpn/peer
    out ip link set peer mtu 1420 up
    for number in 1 2 3; do
        out ip address add "10.20.$number.1/24" dev peer
        out iperf3 -s -B "10.20.$number.1" >/dev/null &
    done
    setsid wireguard-go -f hand >/dev/null 2>&1 &
    until_true wg show hand
    grep -v ^Address /run/vpn/wg1.conf | wg setconf hand /dev/stdin
    ip address add 10.20.1.2/24 dev hand
    ip link set hand mtu 1420 up
    until_true ping -c 1 -W 1 10.20.1.1
}

configure() {
    cat >/etc/runns.conf <<END
[ovpn]
vpn=/run/vpn/client.conf
[ovpnkill]
vpn=/run/vpn/client.conf
KillSwitch=yes
[wg]
WireGuard=/run/vpn/wg2.conf
[wgkill]
WireGuard=/run/vpn/wg3.conf
KillSwitch=yes
END
    chmod 600 /run/vpn/*.conf
    for section in ovpn ovpnkill wg wgkill; do runns-exec build -s $section >/dev/null; done
}

# Nanoseconds of CPU time that the threads of process $1 have used.
cpu_time() { awk '{ used += $1 } END { printf "%.0f", used }' "/proc/$1/task/"*/schedstat; }

# The process that serves the tunnel of section $1.
daemon_of() { python3 -c 'import json, sys; print(json.load(open(f"/run/runns/{sys.argv[1]}.json"))["daemons"][0]["pid"])' "$1"; }

# Sends to address $1 with the command that follows: megabits a second, and the milliseconds of CPU time that process $2, the
# client, used for each megabyte. These do not depend on what else the machine does.
carry() {
    local address=$1 client=$2 before
    shift 2
    before=$(cpu_time "$client")
    "$@" iperf3 -c "$address" -t 1 -J >/run/said
    python3 - "$before" "$(cpu_time "$client")" <<'PYTHON'
import json, sys
received = json.load(open("/run/said"))["end"]["sum_received"]
before, after = map(int, sys.argv[1:])
print("%.1f %.4f" % (received["bits_per_second"] / 1e6, (after - before) / 1e6 / (received["bytes"] / 1e6)))
PYTHON
}

# The median of column $2 in file $1.
column() { awk -v n="$2" '{ print $n }' "$1" | median; }

# What carries it, in turns: by hand, and in the sections without and with the kill switch. Prints medians, and those of the
# ratios to the one by hand in the same round.
#   compare LABEL PID_BY_HAND ADDRESS SECTION ADDRESS SECTION ADDRESS
compare() {
    local label=$1 hand=$2 round
    local -a row
    for ((round = 0; round < rounds; round++)); do
        for turn in 0 1 2; do
            # Each of them comes first as often as the others.
            case $(((turn + round) % 3)) in
                0) row[0]=$(carry "$3" "$hand") ;;
                1) row[1]=$(carry "$5" "$(daemon_of "$4")" runns-exec "$4" --) ;;
                2) row[2]=$(carry "$7" "$(daemon_of "$6")" runns-exec "$6" --) ;;
            esac
        done
        echo "${row[@]}"
    done >/run/rounds
    awk '{ print 1, $3 / $1, $5 / $1, 1, $2 / $4, $2 / $6 }' /run/rounds >/run/ratios
    printf '%-34s %10s %10s %10s\n' "$label" 'by hand' 'inside' 'KillSwitch'
    printf '%-34s %10.1f %10.1f %10.1f\n' 'Mbit/s' "$(column /run/rounds 1)" "$(column /run/rounds 3)" "$(column /run/rounds 5)"
    printf '%-34s %10.2f %10.2f %10.2f\n' 'of the one by hand' 1 "$(column /run/ratios 2)" "$(column /run/ratios 3)"
    printf '%-34s %10.2f %10.2f %10.2f\n' 'CPU time of the client, ms/MB' "$(column /run/rounds 2)" "$(column /run/rounds 4)" "$(column /run/rounds 6)"
    printf '%-34s %10.2f %10.2f %10.2f\n' 'as many MB for it as by hand' 1 "$(column /run/ratios 5)" "$(column /run/ratios 6)"
}

umask 077
sandbox
chmod 755 /run/bin /run/libexec /run/libexec/runns-exec
tun
openvpn_server
wireguard_server
configure
compare OpenVPN "$(pgrep -f 'config client.conf')" 10.8.0.1 ovpn 10.8.0.1 ovpnkill 10.8.0.1
compare 'WireGuard (wireguard-go)' "$(pgrep -x -f 'wireguard-go -f hand')" 10.20.1.1 wg 10.20.2.1 wgkill 10.20.3.1
