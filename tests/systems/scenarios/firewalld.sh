# shellcheck shell=bash disable=SC2034,SC2154
# firewalld as it comes: everything is in zone public, which forwards nothing.
packages=firewalld

scenario() {
    ok 'firewalld runs' in_system 'firewall-cmd --state'
    snapshot "$scratch/before"
    if refused 'build fails, for the traffic would be dropped' in_system 'runns-exec build -n demo'; then
        says 'it names the chain that drops' filter_FORWARD printf '%s' "$output"
        says 'it says what to do' '--zone=trusted --add-interface=demo' printf '%s' "$output"
    else
        no_traffic demo
        clean demo -f
    fi
    snapshot "$scratch/after"
    same 'the failed build leaves nothing' "$scratch/before" "$scratch/after"

    ok 'the interface is trusted' in_system \
        'firewall-cmd --permanent --zone=trusted --add-interface=demo && firewall-cmd --reload'
    snapshot "$scratch/before"
    build -n demo || return
    use demo
    ok 'reload' in_system 'firewall-cmd --reload'
    use demo
    ok 'complete reload' in_system 'firewall-cmd --complete-reload'
    use demo
    ok 'restart' in_system 'systemctl restart firewalld'
    use demo
    clean demo -f
    snapshot "$scratch/after"
    same 'the host is as it was' "$scratch/before" "$scratch/after"

    reboot
    build -n demo
    use demo
    clean demo -f
}
