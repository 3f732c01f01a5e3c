# shellcheck shell=bash disable=SC2034,SC2154
# SELinux, enforcing, with Debian's policy. The unit builds: in a shell of root's, programs are not moved to other domains.

[ "$release" != debian13 ] || packages='policycoreutils selinux-policy-default'

prepare() {
    [ -n "$packages" ] || return 0
    start_openvpn
    start_wireguard
    boot_options='security=selinux selinux=1 enforcing=1'
    sed -i 's/^SELINUX=.*/SELINUX=enforcing/' "$root/etc/selinux/config"
    # As on a kernel without WireGuard.
    echo 'install wireguard /bin/false' >"$root/etc/modprobe.d/none.conf"
    # A confined user is one from the login: su leaves it as it is.
    echo 'bob:user_u:s0' >>"$root/etc/selinux/default/seusers"
    install -d "$root/home/bob/.ssh"
    install -m 644 "$key.pub" "$root/home/bob/.ssh/authorized_keys"
}

install_program() {
    install_on_machines
    [ -z "$packages" ] || chroot "$root" setfiles /etc/selinux/default/contexts/files/file_contexts /
}

# The section's tunnel, whose daemon is program $1 and which gives an address that begins with $2, built by the unit.
tunnel() {
    local daemon=$1 given=$2
    ok "$daemon: the unit" in_system 'systemctl start runns@work || { systemctl status runns@work; false; }' || return
    says "$daemon is in the domain of the unit" :initrc_t: in_system "ps -o label= -C $daemon"
    leaves_from work "$given"
    ok "$daemon: status" as_user alice 'runns-exec status work'
    in_system "pkill -KILL -x $daemon"
    wait_for 5 'the end of the daemon' in_system "! pgrep -x $daemon"
    refused "$daemon: status shows that the tunnel is lost" in_system 'runns-exec status work'
    ok "$daemon: a reload repairs it" in_system 'systemctl reload runns@work'
    leaves_from work "$given"
    ok "$daemon: stop" in_system 'systemctl stop runns@work'
    refused "$daemon: it is gone" in_system 'ls /run/netns/work'
}

# A library of OpenVPN's with the label of a process, which nothing may execute.
denied() {
    local library
    library=$(in_system "ldd /usr/sbin/openvpn | grep -o '/[^ ]*pkcs11-helper[^ ]*' | xargs readlink -f")
    ok 'a wrong label' in_system "setenforce 0 && chcon -t httpd_t $library && setenforce 1"
    says 'build names SELinux' 'SELinux denied openvpn' in_system 'runns-exec build -s work'
    ok 'the right label' in_system "setenforce 0 && restorecon $library && setenforce 1"
    build -s work
    clean work -f
}

confined() {
    ok 'alice enters' as_user alice 'runns-exec demo -- true'
    ok 'bob may' in_system 'usermod -aG runns bob'
    says 'bob is confined' user_u:user_r:user_t as_bob id -Z
    refused 'bob cannot enter' as_bob runns-exec demo -- true
    printf '%s\n' "$output"
}

as_bob() {
    timeout 300 ssh -q -i "$key" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null "bob@$address" "$@"
}

scenario() {
    if [ -z "$packages" ]; then
        not_run 'with SELinux' 'only the policy of Debian 13 has been tried'
        return
    fi
    says 'it is enforcing' Enforcing in_system getenforce
    build -n demo
    use demo
    confined
    clean demo -f
    configure work vpn=/etc/openvpn/client/client.conf
    tunnel openvpn 10.8.0.
    configure work vpn=/etc/openvpn/client/client.conf KillSwitch=yes
    tunnel openvpn 10.8.0.
    denied
    configure work WireGuard=/etc/wireguard/wg0.conf KillSwitch=yes
    tunnel wireguard-go 10.9.0.
}
