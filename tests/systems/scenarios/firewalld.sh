# shellcheck shell=bash disable=SC2034,SC2154
# firewalld as it comes: everything is in zone public, which forwards nothing.
packages=firewalld

in_zone() {
    says "$1 is in zone $2, permanently" "$2" in_system "firewall-cmd --permanent --get-zone-of-interface=$1"
    says "$1 is in zone $2" "$2" in_system "firewall-cmd --get-zone-of-interface=$1"
}

# Namespace demo works, and goes on to whatever becomes of firewalld.
hold() {
    use demo
    ok 'reload' in_system 'firewall-cmd --reload'
    use demo
    ok 'complete reload' in_system 'firewall-cmd --complete-reload'
    use demo
    ok 'restart' in_system 'systemctl restart firewalld'
    use demo
}

scenario() {
    ok 'firewalld runs' in_system 'firewall-cmd --state'
    says 'its default zone is public' public in_system 'firewall-cmd --get-default-zone'
    snapshot "$scratch/before"
    build -n demo || return
    in_zone demo runns
    hold
    in_zone demo runns
    build -n demo
    build -n other
    in_zone other runns
    use other
    clean demo
    use other
    clean other -f
    refused 'the interface is in no zone any more' in_system 'firewall-cmd --permanent --get-zone-of-interface=demo'
    snapshot "$scratch/after"
    same 'the host is as it was' "$scratch/before" "$scratch/after"

    # The zone that the administrator has chosen.
    ok 'the interface is trusted' in_system \
        'firewall-cmd --permanent --zone=trusted --add-interface=demo && firewall-cmd --reload'
    snapshot "$scratch/before"
    build -n demo
    in_zone demo trusted
    hold
    clean demo -f
    in_zone demo trusted
    snapshot "$scratch/after"
    same 'the host is as it was, with the zone of the administrator' "$scratch/before" "$scratch/after"
    ok 'the interface is not trusted any more' in_system \
        'firewall-cmd --permanent --zone=trusted --remove-interface=demo && firewall-cmd --reload'

    # firewalld, stopped at build, comes later.
    ok 'firewalld stops' in_system 'systemctl stop firewalld'
    snapshot "$scratch/before"
    build -n demo
    use demo
    ok 'firewalld starts after build' in_system 'systemctl start firewalld'
    in_zone demo runns
    use demo
    ok 'firewalld stops again' in_system 'systemctl stop firewalld'
    use demo
    clean demo -f
    snapshot "$scratch/after"
    same 'the host is as it was, without firewalld' "$scratch/before" "$scratch/after"

    build -n demo -o eth0
    reboot
    build -n demo -o eth0
    use demo
    in_zone demo runns
    clean demo -f
    ways 'beside firewalld'
}
