# shellcheck shell=bash disable=SC2034,SC2154
# A service of the system in a namespace, by the drop-in, while the host runs systemd-resolved and nscd.
packages='systemd-resolved libnss-resolve nscd'

dropin=/etc/systemd/system/probe.service.d/runns.conf

prepare() {
    start_openvpn
    mkdir -p "$root/etc/systemd/resolved.conf.d"
    printf '[Resolve]\nDNS=%s\n' "$gateway" >"$root/etc/systemd/resolved.conf.d/dns.conf"
    ln -sf ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
    # A service with a sandbox of its own, which says whom it finds at a name.
    cat >"$root/etc/systemd/system/probe.service" <<'END'
[Service]
DynamicUser=yes
NoNewPrivileges=yes
ProtectSystem=strict
PrivateTmp=yes
CapabilityBoundingSet=
StandardOutput=append:/run/probe
StandardError=journal
ExecStart=/bin/sh -c 'while :; do curl -sS -m 5 http://web.example/ || echo nobody; sleep 0.5; done'
[Install]
WantedBy=multi-user.target
END
}

answered() {
    in_system "tail -n 1 /run/probe | grep '^$1 '"
}

finds() {
    in_system ': >/run/probe'
    wait_for 10 "$1" answered "$2"
}

write_dropin() {
    # shellcheck disable=SC2016
    ok 'the drop-in is written as the manual says' in_system 'mkdir -p /etc/systemd/system/probe.service.d &&
        sed "s/NAME/vpnWork/g; s/SECTION/work/g" /usr/local/share/doc/runns-exec/examples/service.conf >'"$dropin"' &&
        systemctl daemon-reload'
}

scenario() {
    in_system "printf '[work]\nNetworkNamespace=vpnWork\nvpn=/etc/openvpn/client/client.conf\n' >/etc/runns.conf"
    ok 'nscd runs' in_system 'systemctl start nscd && getent ahostsv4 web.example'
    ok 'the service starts' in_system 'systemctl start probe'
    finds 'without the drop-in, the service finds the host on the internet' internet
    ok 'the service stops' in_system 'systemctl stop probe'
    write_dropin
    ok 'the service starts, and with it the namespace' in_system 'systemctl start probe || { cat /run/probe; false; }' || return
    says 'the unit is active' active in_system 'systemctl is-active runns@work'
    finds 'with the drop-in, it finds the host behind the tunnel' vpn
    says 'the host finds the one on the internet' internet in_system 'curl -sS http://web.example/'
    # shellcheck disable=SC2016
    ok 'a running service is checked from outside' in_system \
        'nsenter --target "$(systemctl show --property MainPID --value probe)" --mount --net runns-exec check --here vpnWork'
    says 'list shows it' web.example in_system 'runns-exec list -a vpnWork'
    ok 'resolved and nscd restart' in_system 'systemctl restart systemd-resolved nscd'
    finds 'after that it finds the host behind the tunnel' vpn

    # The service goes before the namespace: clean has nothing to end.
    ok 'the namespace stops' in_system 'systemctl stop runns@work'
    says 'the service has stopped' inactive in_system 'systemctl is-active probe'
    refused 'clean found no program inside' in_system 'journalctl -u probe --no-pager | grep -i "killed\|failed"'
    ok 'restart of the unit' in_system 'systemctl start probe && systemctl restart runns@work'
    wait_for 10 'the service after it' in_system 'systemctl is-active probe'
    finds 'after a restart of the unit' vpn

    # A drop-in without one of its lines: the check before the service says what leaks.
    local line
    for line in 'TemporaryFileSystem' 'BindReadOnlyPaths=.*resolv.conf' 'BindReadOnlyPaths=.*nsswitch.conf' 'NetworkNamespacePath'; do
        write_dropin
        in_system "sed -i '/^$line/d' $dropin && systemctl daemon-reload"
        refused "the service does not start without $line" in_system 'systemctl restart probe'
        says 'its status says why' 'runns-exec: cannot' in_system 'systemctl --no-pager status probe; journalctl -u probe -n 30 --no-pager'
    done
    write_dropin
    ok 'enable' in_system 'systemctl enable probe'
    reboot
    wait_for 30 'the service after the reboot' in_system 'systemctl is-active probe'
    finds 'after the reboot' vpn
    ok 'stop' in_system 'systemctl stop probe runns@work'
}
