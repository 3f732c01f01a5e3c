# shellcheck shell=bash disable=SC2034,SC2154
# systemd-resolved is the host's resolver: resolv.conf names its stub, which cannot be reached from a namespace.
packages='systemd-resolved libnss-resolve'

prepare() {
    mkdir -p "$root/etc/systemd/resolved.conf.d"
    printf '[Resolve]\nDNS=%s\n' "$gateway" >"$root/etc/systemd/resolved.conf.d/dns.conf"
    ln -sf ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
}

scenario() {
    says 'the host asks the stub' 127.0.0.53 in_system 'cat /etc/resolv.conf'
    says 'the host has names' "$web" in_system 'getent ahostsv4 web.example'
    snapshot "$scratch/before"
    build -n demo || return
    use demo
    tight demo
    says 'the namespace asks the server behind the stub' "nameserver $gateway" \
        as_user alice 'runns-exec demo -- cat /etc/resolv.conf'
    ok 'restart' in_system 'systemctl restart systemd-resolved'
    use demo
    tight demo
    ok 'resolved stops' in_system 'systemctl stop systemd-resolved'
    use demo
    tight demo
    ok 'resolved starts' in_system 'systemctl start systemd-resolved'
    clean demo -f
    snapshot "$scratch/after"
    same 'the host is as it was' "$scratch/before" "$scratch/after"

    build -n demo
    reboot
    build -n demo
    use demo
    tight demo
    clean demo -f
}
