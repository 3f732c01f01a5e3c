# shellcheck shell=bash disable=SC2034,SC2154
# docs/RECIPES.md, literally: each block as the page has it, by a user who may use sudo.
packages='transmission-daemon python3'

second=10.9.0.1

prepare() {
    start_openvpn
    # Behind the first VPN, the server of a second one.
    internet openvpn --cd "$scratch/openvpn" --mode server --tls-server --dev tun1 --proto udp --local 10.8.0.1 \
        --port 1195 --topology subnet --server 10.9.0.0 255.255.255.0 --ca ca.crt --cert server.crt --key server.key \
        --dh none --keepalive 1 10 --push 'redirect-gateway def1' --verb 3 >"$scratch/second.log" 2>&1 &
    wait_for 10 'the second OpenVPN server' grep -q 'Initialization Sequence Completed' "$scratch/second.log"
    internet python3 "$here/internet.py" second "$second" 80 &
    sed 's/^remote .*/remote 10.8.0.1 1195/' "$root/etc/openvpn/client/client.conf" >"$root/etc/openvpn/client/second.conf"
    printf 'alice ALL=(ALL) NOPASSWD: ALL\n' >"$root/etc/sudoers.d/alice"
    chmod 440 "$root/etc/sudoers.d/alice"
    systemctl --root="$root" disable --quiet transmission-daemon.service
    printf '[Service]\nDynamicUser=yes\nStandardOutput=append:/run/fetched\nExecStart=/usr/bin/curl -sS http://10.8.0.1/\n' \
        >"$root/etc/systemd/system/fetch.service"
    ssh-keygen -q -t ed25519 -N '' -f "$scratch/key"
    install -d -m 700 -o 1000 -g 1000 "$root/home/alice/.ssh"
    install -m 600 -o 1000 -g 1000 "$scratch/key.pub" "$root/home/alice/.ssh/authorized_keys"
}

# Block $2 of kind $3 of recipe $1; nothing if there is none.
block() {
    awk -v recipe="## $1." -v wanted="$2" -v kind="\`\`\`$3" '
        /^## / { inside = index($0, recipe) == 1; next }
        inside && /^```/ && open { open = 0; next }
        inside && /^```/ { open = 1; shown = ($0 == kind) && ++count == wanted; next }
        inside && open && shown' "$source/docs/RECIPES.md"
}

# Does what recipe $1 says. Options that stand before the first section come first.
follow() {
    local number=$1 script=/usr/local/sbin/second-vpn
    block "$number" 1 "sh $script" >"$scratch/script"
    [ ! -s "$scratch/script" ] || install -m 755 "$scratch/script" "$root$script"
    block "$number" 1 ini >"$root/etc/runns.conf"
    [ -s "$root/etc/runns.conf" ] || fail "recipe $number has a section"
    ok "recipe $number" as_user alice "set -ex
$(block "$number" 1 sh)"
    block "$number" 1 'sh neighbour' >"$scratch/neighbour"
    [ ! -s "$scratch/neighbour" ] || ok "recipe $number, on another computer" neighbour bash -e "$scratch/neighbour"
    printf '%s\n' "$output"
}

done_with() {
    ok "clean $1" in_system "runns-exec clean $1 -f --kill"
}

scenario() {
    local login="ssh -n -i $scratch/key -p 2222 -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
    follow 1
    says 'the web page is on the LAN' transmission neighbour curl -sS http://192.0.2.2:9091/transmission/web/
    refused 'nothing else is' neighbour curl -sS -m 2 http://192.0.2.2:51413/
    says 'the client is in the VPN' 'vpn 10.8.0.' as_user alice 'runns-exec torrent -- curl -sS http://10.8.0.1/'
    ok 'the tunnel goes down' in_system 'ip -n torrent link del tun0'
    says 'the web page stays' transmission neighbour curl -sS http://192.0.2.2:9091/transmission/web/
    no_traffic torrent
    done_with torrent

    follow 2
    says 'the printer sees the host' "neighbour $address" as_user alice 'runns-exec work -- curl -sS http://192.0.2.3/'
    says 'the rest goes through the tunnel' 'vpn 10.8.0.' as_user alice 'runns-exec work -- curl -sS http://10.8.0.1/'
    says 'the way is shown' 'OPEN' as_user alice 'runns-exec check work'
    ok 'status' as_user alice 'runns-exec status work'
    done_with work

    in_system 'systemd-run --quiet --unit=bridge nc -lk 1143; systemd-run --quiet --unit=other nc -lk 1144'
    wait_for 5 'the bridge' in_system 'nc -z 127.0.0.1 1143 && nc -z 127.0.0.1 1144'
    follow 3
    refused 'no other server of the host is reached' as_user alice 'runns-exec mail -- nc -w 2 -z host.runns 1144'
    done_with mail

    follow 4
    says 'the second VPN is used' "second 10.9.0." as_user alice "runns-exec nested -- curl -sS http://$second/"
    says 'its server is reached through the first' ' 10.8.0.' grep -m1 'Peer Connection Initiated with' "$scratch/second.log" || true
    done_with nested

    follow 5
    wait_for 10 'the service is in the VPN' in_system "grep 'vpn 10.8.0.' /run/fetched"
    ok 'the unit stops' in_system 'systemctl disable --now runns@box'

    follow 6
    says 'it works' 'it works' in_system "curl -sS -g 'http://[::1]:8000/'"
    refused 'not from the LAN' neighbour curl -sS -m 2 http://192.0.2.2:8000/
    done_with dev

    follow 7
    # shellcheck disable=SC2086 # a list of words
    says 'a login is inside' 'vpn 10.8.0.' neighbour $login alice@192.0.2.2 'curl -sS http://10.8.0.1/'
    done_with lab

    ok 'the host is in a VPN' in_system 'systemd-run --quiet --unit=hosts-vpn --property=WorkingDirectory=/etc/openvpn/client openvpn --config client.conf'
    wait_for 20 'its default route' in_system 'ip route get 198.51.100.1 | grep tun'
    follow 8
    says 'the host is seen behind the VPN' 'internet 10.8.0.' in_system "curl -sS http://$web/"
    says 'the namespace is not' "internet $address" as_user alice "runns-exec direct -- curl -sS http://$web/"
    done_with direct
    in_system 'systemctl stop hosts-vpn'

    follow 9
    says 'it has loopback alone' 'lo ' as_user alice 'runns-exec nowhere -- ip -br link'
    in_system 'ip netns delete nowhere'

    in_system 'usermod -aG runns bob'
    follow 10
    ok 'bob enters his' as_user bob 'runns-exec of-bob -- true'
    refused "and not alice's" as_user bob 'runns-exec of-alice -- true'
    done_with of-alice
    done_with of-bob
}
