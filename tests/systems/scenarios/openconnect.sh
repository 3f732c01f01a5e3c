# shellcheck shell=bash disable=SC2034,SC2154
# A day with the company's VPN: a login with a code on a terminal, the uplink away for a while, the end of the session, and
# another login. A program inside lives through all of it, and nothing leaves outside the tunnel.
packages='openconnect ocserv gnutls-bin'

office=10.88.0.1
password=secret
# Of the counters 0, 1 and 2 and the secret 00 (RFC 4226).
codes=(328482 812658 073348)

# Another machine with the same packages, in the network that plays the internet.
server() {
    chroot "$scratch/server" "$@"
}

make_server() {
    local place=$scratch/server
    mkdir -p "$place" "$scratch/server-upper" "$scratch/server-work"
    mount -t overlay overlay \
        -o "lowerdir=$layer/upper:$base/root,upperdir=$scratch/server-upper,workdir=$scratch/server-work" "$place"
    mount --rbind /dev "$place/dev"
    mount -t proc proc "$place/proc"
    cat >"$place/srv/ocserv.conf" <<END
auth = "plain[passwd=/srv/passwd,otp=/srv/otp]"
listen-host = $gateway
tcp-port = 443
udp-port = 443
run-as-user = root
run-as-group = root
isolate-workers = false
socket-file = /srv/ocserv.sock
occtl-socket-file = /srv/occtl.sock
use-occtl = true
pid-file = /srv/pid
server-cert = /srv/server.pem
server-key = /srv/server.key
device = vpns
ipv4-network = 10.77.0.0
ipv4-netmask = 255.255.255.0
dns = $office
default-domain = corp.test
route = default
keepalive = 5
dpd = 2
mobile-dpd = 2
cookie-timeout = 300
max-ban-score = 0
try-mtu-discovery = false
cisco-client-compat = true
END
    printf 'cn="Test CA"\nca\ncert_signing_key\nexpiration_days=2\n' >"$place/srv/ca.tmpl"
    printf 'cn="vpn"\nip_address="%s"\ntls_www_server\nsigning_key\nexpiration_days=2\n' "$gateway" >"$place/srv/server.tmpl"
    printf 'HOTP alice - 00\n' >"$place/srv/otp"
    server sh -ec "cd /srv
        certtool --generate-privkey --ecc --outfile ca.key
        certtool --generate-self-signed --load-privkey ca.key --template ca.tmpl --outfile ca.pem
        certtool --generate-privkey --ecc --outfile server.key
        certtool --generate-certificate --load-privkey server.key --load-ca-certificate ca.pem --load-ca-privkey ca.key \
            --template server.tmpl --outfile server.pem
        printf '$password\n$password\n' | ocpasswd -c passwd alice" 2>&1
    start_server
    # Behind it, the company's web and DNS servers.
    internet ip address add "$office/32" dev lo
    internet python3 "$here/internet.py" company "$office" 80 &
    internet dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --bind-interfaces \
        --listen-address="$office" --except-interface=lan --user=root --pid-file= --address="/intranet.corp.test/$office" &
    wait_for 5 "the company's web server" internet curl -sS "http://$office/"
}

start_server() {
    rm -f "$scratch/server/srv"/*.sock*
    internet server ocserv -f -c /srv/ocserv.conf >>"$scratch/ocserv.log" 2>&1 &
    wait_for 10 'ocserv' server occtl -s /srv/occtl.sock show status
}

prepare() {
    systemctl --root="$root" disable --quiet ocserv.service ocserv.socket
    make_server
    printf 'alice ALL=(ALL) NOPASSWD: ALL\n' >"$root/etc/sudoers.d/alice"
    chmod 440 "$root/etc/sudoers.d/alice"
    ssh-keygen -q -t ed25519 -N '' -f "$scratch/key"
    install -d -o 1000 -g 1000 -m 700 "$root/home/alice/.ssh"
    install -o 1000 -g 1000 -m 600 "$scratch/key.pub" "$root/home/alice/.ssh/authorized_keys"
    install -d "$root/etc/openconnect"
    install -m 644 "$scratch/server/srv/ca.pem" "$root/etc/openconnect/ca.pem"
    printf 'user=alice\ncafile=ca.pem\n' >"$root/etc/openconnect/work.conf"
}

install_program() {
    RUNNS_EXEC_BINARY=$program/built/runns-exec RUNNS_EXEC_COMPLETIONS=$program/built/completions FORMATS=deb \
        "$source/install/package.sh" "$root/srv"
}

# Counts what comes from the system's uplink: the tunnel's own packets, and what is neither that nor the host's.
watch_uplink() {
    server nft -f - <<END
table netdev watch {
    counter vpn { }
    counter others { }
    set seen { type ipv4_addr . ipv4_addr . inet_proto; size 64; flags dynamic; }
    chain frames {
        type filter hook ingress device "uplink" priority 0
        ether type arp accept
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, mld2-listener-report } accept
        ip saddr $address ip daddr $gateway tcp dport 443 counter name vpn accept
        ip saddr $address ip daddr $gateway udp dport 443 counter name vpn accept
        ip saddr $address ip daddr $gateway icmp type destination-unreachable accept
        ip saddr $address ip daddr $gateway tcp sport 22 accept
        counter name others
        add @seen { ip saddr . ip daddr . ip protocol }
    }
}
END
}

nothing_outside() {
    says "$1: nothing has left outside the tunnel" 'packets 0 ' server nft list counter netdev watch others ||
        server nft list set netdev watch seen
}

# Runs $1 on a terminal of alice's, and types each of the other words when something is asked.
at_terminal() {
    local command=$1 keys terminal answer seen=0
    shift
    : >"$scratch/terminal"
    exec {keys}> >(timeout 60 ssh -tt -q -F none -i "$scratch/key" -o StrictHostKeyChecking=no \
        -o UserKnownHostsFile=/dev/null "alice@$address" "$command" >"$scratch/terminal" 2>&1)
    terminal=$!
    for answer; do
        wait_for 30 "a question after $seen bytes" is_asked "$seen" || break
        seen=$(stat -c %s "$scratch/terminal")
        printf '%s\n' "$answer" >&"$keys"
    done
    status=0
    wait "$terminal" || status=$?
    exec {keys}>&-
    cat "$scratch/terminal"
    return "$status"
}

is_asked() {
    tail -c "+$(($1 + 1))" "$scratch/terminal" | grep -q 'Password: $'
}

browse() {
    wait_for 60 "$1: a page of the company's" as_user alice \
        'runns-exec work -- curl -sS -m 5 http://intranet.corp.test/ | grep "company 10.77.0."'
    says "$1: the internet is behind the tunnel" 'internet 10.77.0.' as_user alice "runns-exec work -- curl -sS -m 5 http://$web/"
}

# The program that alice started in the morning.
goes_on() {
    local before
    before=$(size_of_pages)
    # shellcheck disable=SC2016 # expanded in the system
    ok "$1: the program is there" as_user alice 'kill -0 $(cat pid)'
    wait_for 20 "$1: it gets pages" has_grown "$before"
}

size_of_pages() {
    in_system 'stat -c %s /home/alice/pages'
}

has_grown() {
    [ "$(size_of_pages)" -gt "$1" ]
}

tunnel_says() {
    [[ $(as_user alice 'runns-exec status work') == *"$1"* ]]
}

# The session ends, for the reason $2; another login takes the code $3.
try_end() {
    wait_for 60 "$1: the end of the session" tunnel_says "the session has ended: $2"
    says "$1: it is down" 'work       down' as_user alice 'runns-exec status work'
    refused "$1: status fails" as_user alice 'runns-exec status work'
    no_traffic work
    nothing_outside "$1"
    refused "$1: nobody logs in without a terminal" in_system 'runns-exec build work'
    ok "$1: another login" at_terminal 'sudo runns-exec build work' "$password" "$3"
    browse "$1, another login"
    goes_on "$1, another login"
    ok "$1: status" as_user alice 'runns-exec status work'
}

# The uplink goes up or down. A machine is reached through it, so ssh still passes there.
uplink_goes() {
    case $kind.$1 in
        systems.*) ip link set uplink "$1" ;;
        *.up) server nft delete table inet away ;;
        *.down) server nft -f - <<END ;;
table inet away {
    chain arriving {
        type filter hook prerouting priority raw
        ip saddr $address tcp sport 22 accept
        ip saddr $address drop
    }
}
END
    esac
}

try_suspend() {
    uplink_goes down
    wait_for 60 'the lid is closed: the tunnel is down' tunnel_says down
    no_traffic work
    uplink_goes up
    browse 'the lid is open'
    goes_on 'the lid is open'
    wait_for 20 'the lid is open: status' as_user alice 'runns-exec status work'
    nothing_outside 'the lid is open'
}

scenario() {
    local build='sudo runns-exec build -s work'
    # Machines have it installed already.
    if [ "$kind" = systems ]; then
        says 'the package recommends openconnect' openconnect in_system "dpkg-deb -f /srv/*.deb Recommends"
        ok 'apt installs' in_system 'apt-get install -q -y --no-install-recommends /srv/*.deb && usermod -aG runns alice'
    fi
    in_system "printf '[work]\nOpenConnect=$gateway\nOpenConnectOptions=/etc/openconnect/work.conf\nKillSwitch=yes\n' >/etc/runns.conf"
    snapshot "$scratch/before"
    watch_uplink
    says 'a wrong code' 'the server refused the login' at_terminal "$build" "$password" 000000
    snapshot "$scratch/after"
    same 'nothing is left of it' "$scratch/before" "$scratch/after"
    ok 'a login with a code' at_terminal "$build" "$password" "${codes[0]}" || return
    browse 'in the morning'
    ok 'status' as_user alice 'runns-exec status work'
    ok 'no leak' as_user alice 'runns-exec check work'
    as_user alice "runns-exec -d work -- sh -c 'while sleep 0.2; do curl -s -m 2 http://$web/ http://intranet.corp.test/; done >pages' >pid"
    goes_on 'in the morning'
    nothing_outside 'in the morning'
    try_suspend
    server occtl -s /srv/occtl.sock disconnect user alice
    try_end 'the server ends it' 'the server ended it' "${codes[1]}"
    pkill -KILL ocserv
    start_server
    try_end 'another server' 'the server does not accept it any more' "${codes[2]}"
    says 'the log has the reason' 'Session terminated' in_system 'runns-exec log work'
    clean work -f --kill
    snapshot "$scratch/after"
    same 'the host is as it was' "$scratch/before" "$scratch/after"
    nothing_outside 'in the evening'
    # The watch sees what there is to see.
    ok 'the host itself' in_system "curl -sS -m 5 http://$web/"
    says 'it is seen' "$web" server nft list set netdev watch seen
}
