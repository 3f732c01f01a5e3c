# shellcheck shell=bash disable=SC2034,SC2154
# A server as Debian's installer leaves it: ifupdown, no firewall.
scenario() {
    snapshot "$scratch/before"
    build -n demo || return
    use demo
    says 'list shows the program' 'sleep 60' as_user alice \
        'runns-exec -d demo -- sleep 60 >/dev/null 2>&1 && runns-exec list demo'
    says 'the user keeps his name' alice as_user alice 'runns-exec demo -- id -un'
    refused 'who is not in the group does not enter' as_user bob 'runns-exec demo -- true'
    says 'the log has the user and the command' 'alice' in_system 'journalctl -t runns-exec --no-pager'
    as_user alice 'runns-exec -d demo -- nc -lk 8080 >/dev/null 2>&1' >/dev/null
    refused 'the LAN does not get in' neighbour curl -sS -m 2 http://172.24.0.2:8080/
    refused 'clean asks for the programs inside' in_system 'runns-exec clean demo -f'
    clean demo -f --kill
    snapshot "$scratch/after"
    same 'the host is as it was' "$scratch/before" "$scratch/after"

    build -n demo
    reboot
    refused 'nobody enters what a reboot has taken' as_user alice 'runns-exec demo -- true'
    snapshot "$scratch/rebooted"
    build -n demo
    use demo
    clean demo -f
    snapshot "$scratch/after"
    same 'the rebooted host is as it was' "$scratch/rebooted" "$scratch/after"

    in_system 'printf "[tight]\nDNS=192.0.2.1\n" >/etc/runns.conf'
    build -s tight
    use tight
    tight tight
    clean tight -f

    start_openvpn
    in_system "printf '[work]\nNetworkNamespace=vpnWork\nvpn=/etc/openvpn/client/client.conf\n' >/etc/runns.conf"
    snapshot "$scratch/before"
    build -s work || return
    says 'traffic goes through the tunnel' 'vpn 10.8.0.' as_user alice 'runns-exec vpnWork -- curl -sS -m 5 http://10.8.0.1/'
    says 'names go through the tunnel' 'vpn 10.8.0.' as_user alice 'runns-exec vpnWork -- curl -sS -m 5 http://web.example/'
    clean -s work -f
    snapshot "$scratch/after"
    same 'the host without the tunnel is as it was' "$scratch/before" "$scratch/after"
    ways 'without a firewall'
}
