# shellcheck shell=bash disable=SC2034,SC2154
# nftables.service with a ruleset of the administrator's.

write_ruleset() {
    in_system 'cat >/etc/nftables.conf' <<END
#!/usr/sbin/nft -f
flush ruleset
table inet firewall {
    chain input { type filter hook input priority filter; policy accept; }
    chain gate { type filter hook forward priority filter; policy drop;
        ct state established,related accept
        $1
    }
}
END
}

scenario() {
    write_ruleset ''
    ok 'nftables starts' in_system 'systemctl enable --now nftables'
    snapshot "$scratch/before"
    if refused 'build fails, for the traffic would be dropped' in_system 'runns-exec build -n demo'; then
        says 'it names the chain that drops' gate printf '%s' "$output"
        says 'it names the table' firewall printf '%s' "$output"
    else
        no_traffic demo
        clean demo -f
    fi
    snapshot "$scratch/after"
    same 'the failed build leaves nothing' "$scratch/before" "$scratch/after"

    write_ruleset 'iifname "demo" accept'
    ok 'a ruleset that lets demo out' in_system 'systemctl reload nftables'
    snapshot "$scratch/before"
    build -n demo || return
    use demo
    clean demo -f
    snapshot "$scratch/after"
    same 'the host is as it was' "$scratch/before" "$scratch/after"

    # The ruleset begins with a flush, which takes every table. runns-firewall.service loads ours again.
    build -n demo
    for verb in reload restart; do
        ok "$verb" in_system "systemctl $verb nftables"
        wait_for 5 "the table after the $verb" in_system 'nft list table inet runns'
        use demo
    done
    ok 'flush' in_system 'nft flush ruleset'
    ok 'build loads the table again' in_system 'runns-exec build -n demo'
    use demo
    clean demo -f

    # With one line in the ruleset, the flush and the table are one transaction.
    in_system 'echo "include \"/run/runns/*.nft\"" >>/etc/nftables.conf'
    build -n demo
    ok 'a ruleset that includes the table' in_system 'nft -f /etc/nftables.conf && nft list table inet runns'
    use demo
    clean demo -f
    ok 'and includes nothing when there is no namespace' in_system 'nft -c -f /etc/nftables.conf'

    reboot
    build -n demo
    use demo
    clean demo -f
    snapshot "$scratch/after"
}
