# shellcheck shell=bash disable=SC2034,SC2154
# ufw drops what is forwarded, unless it is told otherwise.
packages=ufw

scenario() {
    ok 'ufw is enabled' in_system 'ufw allow OpenSSH && ufw --force enable'
    says 'it drops what is forwarded' '-P FORWARD DROP' in_system 'iptables -S FORWARD'
    snapshot "$scratch/before"
    build -n demo || return
    use demo
    ok 'reload' in_system 'ufw reload'
    use demo
    ok 'restart' in_system 'systemctl restart ufw'
    use demo
    clean demo -f
    snapshot "$scratch/after"
    same 'the host is as it was' "$scratch/before" "$scratch/after"

    build -n demo
    ok 'disable' in_system 'ufw disable'
    use demo
    ok 'enable after build' in_system 'ufw --force enable'
    use demo
    clean demo -f
    snapshot "$scratch/after"
    same 'the host is as it was after disable and enable' "$scratch/before" "$scratch/after"

    reboot
    says 'ufw is on after the reboot' 'Status: active' in_system 'ufw status'
    build -n demo
    use demo
    clean demo -f
    ways 'beside ufw'
}
