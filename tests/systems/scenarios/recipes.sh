# shellcheck shell=bash disable=SC2034,SC2154
# docs/RECIPES.md, literally: each block as the page has it, by a user who may use sudo.
packages='transmission-daemon python3 podman tmux xauth xvfb xterm x11-utils natpmpc'

second=10.9.0.1

prepare() {
    start_openvpn
    # Behind the first VPN, the server of a second one.
    internet openvpn --cd "$scratch/openvpn" --mode server --tls-server --dev tun1 --proto udp --local 10.8.0.1 \
        --port 1195 --topology subnet --server 10.9.0.0 255.255.255.0 --ca ca.crt --cert server.crt --key server.key \
        --dh none --keepalive 1 10 --push 'redirect-gateway def1' --verb 3 >"$scratch/second.log" 2>&1 &
    wait_for 10 'the second OpenVPN server' grep -q 'Initialization Sequence Completed' "$scratch/second.log"
    internet python3 "$here/internet.py" second "$second" 80 &
    internet python3 "$here/natpmp.py" 10.8.0.1 40001 >"$scratch/natpmp.log" &
    sed 's/^remote .*/remote 10.8.0.1 1195/' "$root/etc/openvpn/client/client.conf" >"$root/etc/openvpn/client/second.conf"
    printf 'alice ALL=(ALL) NOPASSWD: ALL\n' >"$root/etc/sudoers.d/alice"
    chmod 440 "$root/etc/sudoers.d/alice"
    systemctl --root="$root" disable --quiet transmission-daemon.service
    printf '[Service]\nDynamicUser=yes\nStandardOutput=append:/run/fetched\nExecStart=/usr/bin/curl -sS http://10.8.0.1/\n' \
        >"$root/etc/systemd/system/fetch.service"
    ssh-keygen -q -t ed25519 -N '' -f "$scratch/key"
    install -d -m 700 -o 1000 -g 1000 "$root/home/alice/.ssh"
    install -m 600 -o 1000 -g 1000 "$scratch/key.pub" "$root/home/alice/.ssh/authorized_keys"
    install -m 600 -o 1000 -g 1000 "$scratch/key" "$root/home/alice/.ssh/id_ed25519"
    printf 'Host *\n    StrictHostKeyChecking no\n    LogLevel ERROR\n' >"$root/home/alice/.ssh/config"
    # Podman's own driver does not work on an overlay file system, which $root is.
    install -d "$root/etc/containers"
    printf '[storage]\ndriver = "vfs"\nrunroot = "/run/containers/storage"\ngraphroot = "/var/lib/containers/storage"\n' \
        >"$root/etc/containers/storage.conf"
    # A container in a container gets no controllers of cgroups.
    printf '[containers]\ncgroups = "disabled"\npids_limit = 0\n' >"$root/etc/containers/containers.conf"
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

# Programs of the system, as an image for podman: there is no registry.
make_image() {
    local programs='/bin/sh /bin/cat /usr/bin/curl /usr/bin/getent'
    in_system "mkdir -p /run/image/etc && cd /run/image &&
        for file in $programs \$(ldd $programs | grep -o '/lib[^ ]*' | sort -u); do
            install -D \$file .\$file || exit
        done
        tar -c . | podman import - debian"
}

# Recipes for programs that run on a terminal or a display, or in a container.
screens() {
    follow 11
    as_user alice "tmux -L work send-keys 'curl -sS http://10.8.0.1/ >in-tmux' Enter"
    wait_for 10 'a window of tmux is inside' in_system "grep 'vpn 10.8.0.' /home/alice/in-tmux"
    as_user alice 'xauth -q add :5 . 0123456789abcdef0123456789abcdef'
    in_system "systemd-run --quiet --unit=display --uid=alice Xvfb :5 -listen tcp -auth /home/alice/.Xauthority"
    wait_for 20 'a display' as_user alice 'DISPLAY=:5 xdpyinfo'
    as_user alice "DISPLAY=:5 runns-exec work -- xterm -e sh -c 'curl -sS http://10.8.0.1/ >in-xterm'"
    ok 'a window of xterm is inside' in_system "grep 'vpn 10.8.0.' /home/alice/in-xterm"
    done_with work

    follow 12
    says 'a window over ssh -X' 'name of display:    host.runns:10' as_user alice "DISPLAY=:5 ssh -X 192.0.2.2 '$(block 12 1 'sh display' | sed "s/'/'\\\\''/g")'"
    refused 'not another display' as_user alice 'runns-exec windows -- nc -w 2 -z host.runns 6005'
    ok 'another port' in_system "sed -i 's/localhost:6010/&,6005,22/' /etc/runns.conf && runns-exec build windows --change"
    as_user alice 'runns-exec windows -- xauth -q add host.runns:5 . 0123456789abcdef0123456789abcdef'
    says 'a display over TCP' 'host.runns:5' as_user alice 'DISPLAY=host.runns:5 runns-exec windows -- xdpyinfo | head -n 1'
    ok 'a connection of ssh to share' as_user alice 'ssh -f -N -M -S .ssh/shared 192.0.2.2'
    says 'ssh shares it' "from $address " as_user alice "runns-exec windows -- ssh -S .ssh/shared 192.0.2.2 'echo from \$SSH_CONNECTION'"
    says 'ssh -S none does not' 'from 172.24.' as_user alice "runns-exec windows -- ssh -S none 192.0.2.2 'echo from \$SSH_CONNECTION'"
    as_user alice 'ssh -S .ssh/shared -O exit 192.0.2.2'
    in_system 'systemctl stop display'
    done_with windows

    ok 'an image' make_image
    follow 13
    says 'a container is in the VPN' 'vpn 10.8.0.' in_system 'podman run --rm --network ns:/run/netns/pod -v /etc/netns/pod/resolv.conf:/etc/resolv.conf:ro debian curl -sS http://web.example/'
    done_with pod
}

forwarded_port() {
    local address
    follow 14
    wait_for 10 'a port for TCP' grep tcp "$scratch/natpmp.log"
    wait_for 10 'a port for UDP' grep udp "$scratch/natpmp.log"
    as_user alice 'runns-exec -d torrent -- python3 -m http.server 40001'
    address=$(in_system "ip -n torrent -4 -o address show tun0 | grep -o '10\.8\.0\.[0-9]*' | head -n 1")
    wait_for 10 'the port comes through the tunnel' internet curl -sS -m 2 "http://$address:40001/"
    refused 'and is not open on the LAN' neighbour curl -sS -m 2 http://192.0.2.2:40001/
    done_with torrent
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
    wait_for 5 'sshd' in_system 'runns-exec lab -- nc -z 127.0.0.1 22'
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

    screens
    forwarded_port
}
