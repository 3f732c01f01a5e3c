# shellcheck shell=bash disable=SC2034
# What scenarios are written with.
#
#   in_system SCRIPT          sh -c SCRIPT in the system, as root
#   as_user USER SCRIPT       the same as USER, after a login (su -l)
#   internet COMMAND...       outside, where the web and DNS servers are
#   neighbour COMMAND...      in the LAN that the system's uplink is in
#   ok WHAT COMMAND...        COMMAND must succeed
#   refused WHAT COMMAND...   COMMAND must fail
#   says WHAT TEXT COMMAND... what COMMAND prints on either output must contain TEXT; its exit status does not matter
#   same WHAT FILE FILE       the files must not differ
#   wait_for SECONDS WHAT COMMAND...
#   fail WHAT                 a failure; the scenario goes on
#   not_run WHAT WHY          says what cannot be tried here
#   snapshot FILE             the state of the system, to compare with one that is taken later
#   boot, reboot
#
# $root is the system's root directory, $scratch a directory outside of it.

# shellcheck disable=SC2154 # source, program, base, layer, release: set by scenario.sh
: "$source" "$program" "$base" "$layer" "$release"

place=/run/runns-systems
root=$place/root
scratch=$place/scratch
failures=0
finished=
address=192.0.2.2
gateway=192.0.2.1
web=198.51.100.1
leader=

# Assertions -------------------------------------------------------------------------------------------------------

# Lines up to the lone dot are shown by run.sh.
fail() {
    failures=$((failures + 1))
    printf 'FAILED: %s\n' "$1"
    [ -z "${2:-}" ] || printf '%s\n' "$2" | sed 's/^/  /'
    echo .
}

fail_now() {
    fail "$@"
    finish
}

try() {
    local begin=$EPOCHREALTIME
    status=0
    output=$("$@" 2>&1) || status=$?
    printf '+ %s\n%s\n' "${*:1:3}" "$output"
    printf '  [status %s, %s ms]\n' "$status" "$(((${EPOCHREALTIME/./} - ${begin/./}) / 1000))"
}

ok() {
    local what=$1
    shift
    try "$@"
    if [ "$status" = 0 ]; then
        printf 'ok: %s\n' "$what"
    else
        fail "$what" "expected exit status 0 of: $*
seen $status, and: $output"
        return 1
    fi
}

refused() {
    local what=$1
    shift
    try "$@"
    if [ "$status" != 0 ]; then
        printf 'ok: %s\n' "$what"
    else
        fail "$what" "expected that this fails: $*
seen exit status 0, and: $output"
        return 1
    fi
}

says() {
    local what=$1 text=$2
    shift 2
    try "$@"
    if [[ $output == *"$text"* ]]; then
        printf 'ok: %s\n' "$what"
    else
        fail "$what" "expected \"$text\" from: $*
seen exit status $status, and: $output"
        return 1
    fi
}

same() {
    local difference
    if difference=$(diff -U 0 "$2" "$3" | grep -v -e '^---' -e '^+++' -e '^@@'); then
        fail "$1" "expected no difference, seen:
$difference"
        return 1
    fi
    printf 'ok: %s\n' "$1"
}

not_run() {
    printf 'not run: %s: %s\n' "$1" "$(tr '\n' ' ' <<<"$2")"
}

wait_for() {
    local end=$((SECONDS + $1 * ${slower:-1})) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        if ((SECONDS > end)); then
            fail "wait for $what" "$*: $("$@" 2>&1)"
            return 1
        fi
        sleep 0.1
    done
    printf 'ok: %s\n' "$what"
}

# The system -------------------------------------------------------------------------------------------------------

make_place() {
    mount --make-rprivate /
    ip link set lo up
    # /run is the scenario's own; /sys shows its network, and read-only, or nspawn waits for udev.
    mount -t tmpfs -o mode=755 tmpfs /run
    mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
    mount -o remount,bind,ro /sys
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    mkdir -p "$place"
    mount -t tmpfs -o mode=755 tmpfs "$place"
    mkdir -p "$place/upper" "$place/work" "$root" "$scratch"
    mount -t overlay overlay \
        -o "lowerdir=${layer:+$layer/upper:}$base/root,upperdir=$place/upper,workdir=$place/work" "$root"
}

# A server's network, as Debian's installer leaves it: an address that does not change.
configure_system() {
    cat >"$root/etc/network/interfaces" <<END
auto lo
iface lo inet loopback
auto eth0
iface eth0 inet static
    address $address/24
    gateway $gateway
END
    [ -L "$root/etc/resolv.conf" ] || printf 'nameserver %s\n' "$gateway" >"$root/etc/resolv.conf"
}

# The uplink is configured by something else than ifupdown.
without_ifupdown() {
    printf 'auto lo\niface lo inet loopback\n' >"$root/etc/network/interfaces"
}

boot() {
    local begin=$EPOCHREALTIME
    rm -f "$scratch/console"
    ip link add eth0 address 02:00:5e:00:53:02 type veth peer name uplink
    ip link set uplink master lan up
    SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 systemd-nspawn --quiet --directory="$root" --boot --private-network \
        --network-interface=eth0 --capability=all --system-call-filter='@keyring bpf' --register=no --keep-unit --link-journal=no --resolv-conf=off \
        --timezone=off --console=pipe --machine=system </dev/null >"$scratch/console" 2>&1 &
    nspawn=$!
    leader=
    wait_for 10 'the first process of the system' find_leader || fail_now 'the system does not start' "$(cat "$scratch/console")"
    wait_for 20 'systemd' enter /bin/systemctl --version >/dev/null
    wait_for 30 'the end of booting' is_booted || fail_now 'the system does not boot' "$(enter systemctl list-jobs)"
    printf 'booted in %s ms; failed units:\n' "$(((${EPOCHREALTIME/./} - ${begin/./}) / 1000))"
    in_system 'systemctl --failed --no-legend --plain'
}

find_leader() {
    leader=$(pgrep -P "$nspawn") && [ "$(cat "/proc/$leader/comm")" = systemd ]
}

is_booted() {
    local state
    state=$(enter systemctl is-system-running) || true
    [ "$state" = running ] || [ "$state" = degraded ]
}

# nspawn ends when the system reboots; its network namespace and the link go with it.
reboot() {
    in_system 'systemctl reboot' || true
    wait_for 30 'the system to shut down' is_down || fail_now 'the system does not shut down'
    boot
}

is_down() {
    ! kill -0 "$nspawn" 2>/dev/null
}

# What is to be removed besides this mount namespace.
destroy() { :; }

# Runs a command in the system's namespaces, but not below its systemd, for $limit seconds at most.
enter() {
    timeout "${limit:-60}" nsenter --target "$leader" --mount --uts --ipc --net --pid --cgroup --root --wd env -i \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 "$@"
}

# In a scope of its systemd, as the shell of an administrator's session is: what it starts in the background stays.
in_system() {
    enter systemd-run --quiet --scope --collect sh -c "$1"
}

as_user() {
    local script=${2//\'/\'\\\'\'}
    in_system "exec su -l $1 -c '$script'"
}

# All that build may touch, and all that it must not.
snapshot() {
    in_system "$(cat "$source/tests/support/snapshot.sh")" >"$1" 2>"$1.errors" ||
        fail 'take a snapshot' "$(cat "$1" "$1.errors")"
    in_system "$(cat "$here/snapshot.sh")" >>"$1"
    # Leases run out and are renewed.
    sed -i -E 's/(valid_lft|preferred_lft) [0-9]+sec/\1/g' "$1"
}

# What is outside --------------------------------------------------------------------------------------------------

internet() {
    "$@"
}

neighbour() {
    nsenter --net=/run/netns/neighbour "$@"
}

make_internet() {
    ip link add lan type bridge
    ip address add "$gateway/24" dev lan
    ip address add "$web/32" dev lo
    ip link set lan up
    ip netns add neighbour
    ip link add neighbour type veth peer name eth0 netns neighbour
    ip link set neighbour master lan up
    neighbour ip address add 192.0.2.3/24 dev eth0
    neighbour ip link set lo up
    neighbour ip link set eth0 up
    neighbour ip route add default via "$gateway"
    # The whole of the system's namespaces, were they reachable.
    neighbour ip route add 172.16.0.0/12 via "$address"
    # Packets of the system's namespaces that leave without NAT would be answered here, and be seen as such.
    ip route add 172.16.0.0/12 via "$address"
    internet python3 "$here/internet.py" internet "$web" 80 &
    neighbour python3 "$here/internet.py" neighbour 192.0.2.3 80 &
    start_dns "$address"
    wait_for 5 'the web servers' internet curl -sS "http://$web/"
    wait_for 5 'the web servers' neighbour curl -sS "http://192.0.2.3/"
}

# The names of the internet, and the LAN's DHCP server, which gives address $1.
start_dns() {
    local leased=$1
    if [ -n "${dnsmasq:-}" ]; then
        kill "$dnsmasq"
        wait "$dnsmasq" || true
        rm -f "$scratch/leases"
    fi
    dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --bind-interfaces --interface=lan \
        --except-interface=lo --user=root --pid-file= --log-queries --log-facility="$scratch/dnsmasq" --address="/web.example/$web" \
        --dhcp-range="$leased,$leased,255.255.255.0,2m" --dhcp-leasefile="$scratch/leases" --dhcp-authoritative \
        --dhcp-option=option:dns-server,"$gateway" --dhcp-option=option:router,"$gateway" &
    dnsmasq=$!
}

# A VPN: a server in the internet that gives out 10.8.0.0/24 and has a web server behind it at 10.8.0.1; and the
# client's files in the system, /etc/openvpn/client/client.conf.
start_openvpn() {
    local keys=$scratch/openvpn name
    mkdir -p "$keys"
    printf '[req]\ndistinguished_name=dn\n[dn]\n' >"$keys/openssl.cnf"
    issue() {
        name=$1
        shift
        openssl req -config "$keys/openssl.cnf" -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
            -subj "/CN=$name" -keyout "$keys/$name.key" -out "$keys/$name.crt" "$@" 2>/dev/null
    }
    issue ca -addext basicConstraints=critical,CA:TRUE
    for name in server client; do
        issue "$name" -CA "$keys/ca.crt" -CAkey "$keys/ca.key" -addext keyUsage=digitalSignature \
            -addext extendedKeyUsage="${name}Auth"
    done
    internet openvpn --cd "$keys" --mode server --tls-server --dev tun0 --proto udp --local "$gateway" --port 1194 \
        --topology subnet --server 10.8.0.0 255.255.255.0 --ca ca.crt --cert server.crt --key server.key --dh none \
        --keepalive 1 10 --push 'redirect-gateway def1' --push 'dhcp-option DNS 10.8.0.1' --verb 3 >"$scratch/openvpn.log" 2>&1 &
    wait_for 10 'the OpenVPN server' grep -q 'Initialization Sequence Completed' "$scratch/openvpn.log"
    internet python3 "$here/internet.py" vpn 10.8.0.1 80 &
    internet dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --bind-interfaces \
        --listen-address=10.8.0.1 --user=root --pid-file= --address=/web.example/10.8.0.1 &
    install -d "$root/etc/openvpn/client"
    install -m 600 "$keys/ca.crt" "$keys/client.crt" "$keys/client.key" "$root/etc/openvpn/client/"
    cat >"$root/etc/openvpn/client/client.conf" <<END
client
dev tun
proto udp
remote $gateway 1194
nobind
persist-key
remote-cert-tls server
ca ca.crt
cert client.crt
key client.key
verb 3
END
    wait_for 5 'the web server behind the VPN' internet curl -s http://10.8.0.1/
}

# Steps that most scenarios share ----------------------------------------------------------------------------------

build() {
    ok "build $*" in_system "runns-exec build $*"
}

# An ordinary user enters namespace $1: traffic, names, and what the program says of it.
use() {
    says "traffic from $1 leaves by NAT" "internet ${2:-$address}" as_user alice "runns-exec $1 -- curl -sS -m 5 http://$web/"
    says "names in $1" "$web" as_user alice "runns-exec $1 -- dig +short +time=2 +tries=1 web.example"
    says "names in $1 by the C library" "internet " as_user alice "runns-exec $1 -- curl -sS -m 5 http://web.example/"
    ok "status of $1" as_user alice "runns-exec status $1"
    ok "status of $1, for root" in_system "runns-exec status $1"
    says "list of $1" NAMESPACE as_user alice "runns-exec list $1"
    # Without a resolver of its own, nothing is confirmed; see tight.
    refused "check of $1 finds a leak" as_user alice "runns-exec check $1 | grep -F 'NOT OK'"
}

# Namespace $1 has a resolver of its own, and nothing leaks around it.
tight() {
    ok "check $1" as_user alice "runns-exec check $1"
}

# No traffic from namespace $1 to the internet; nothing else is asked of it.
no_traffic() {
    refused "no traffic from $1" as_user alice "runns-exec $1 -- curl -sS -m 2 http://$web/"
}

# A port of the host that leads inside, and a server of the host that is reached from there, whatever firewall it has.
ways() {
    # shellcheck disable=SC2016 # expanded in the system
    local serve='printf "HTTP/1.0 200 OK\r\n\r\ninside\n" | nc -N -l 8000'
    in_system "printf '[ways]\nPublish=8080:8000\nHostAccess=1143\n' >/etc/runns.conf"
    in_system 'systemctl is-active -q bridge || systemd-run --quiet --unit=bridge nc -lk 1143'
    build -s ways || return
    as_user alice "runns-exec -d ways -- sh -c 'while :; do $serve; done'"
    wait_for 5 "a published port by 127.0.0.1 $1" in_system 'curl -sS -m 5 http://127.0.0.1:8080/'
    # Between two connections, nobody listens for a moment.
    local patient='curl -sS -m 5 --retry 5 --retry-connrefused'
    # shellcheck disable=SC2086 # a command and its options
    says "a published port from the LAN $1" inside neighbour $patient "http://$address:8080/"
    says "a published port by the host's address $1" inside in_system "$patient http://$address:8080/"
    refused "nothing else from the LAN $1" neighbour curl -sS -m 2 "http://$address:8000/"
    ok "a server of the host $1" as_user alice 'runns-exec ways -- nc -w 2 -z host.runns 1143'
    ok "the same by another address $1" as_user alice "runns-exec ways -- nc -w 2 -z $address 1143"
    refused "no other server of the host $1" as_user alice 'runns-exec ways -- nc -w 2 -z host.runns 22'
    ok "status of ways $1" in_system 'runns-exec status ways'
    clean ways --kill
    in_system 'rm /etc/runns.conf'
}

clean() {
    ok "clean $*" in_system "runns-exec clean $*"
}

finish() {
    if [ "$failures" != 0 ] && [ -n "$leader" ]; then
        printf '\nThe end of the journal:\n'
        enter journalctl --no-pager -n 80 2>&1 || true
    fi
    printf '%s failures\n' "$failures"
    finished=yes
    exit $((failures > 0))
}
