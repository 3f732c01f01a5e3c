# shellcheck shell=bash disable=SC2034,SC2154
# The packages: installed, upgraded under running programs, installed again, removed, purged.
packages=rpm

installed=/usr/bin/runns-exec

install_program() {
    local place=$root/srv
    export RUNNS_EXEC_BINARY=$program/built/runns-exec RUNNS_EXEC_COMPLETIONS=$program/built/completions
    VERSION=0.0.9 FORMATS='deb rpm' "$source/install/package.sh" "$place/old"
    "$source/install/package.sh" "$place/new"
    "$source/install/package.sh" "$place/again"
}

prepare() {
    start_openvpn
}

intact() {
    says "$1: owner, group and mode" 'root:runns 750' in_system "stat -c '%U:%G %a' $installed"
    says "$1: capabilities" "$installed cap_net_admin,cap_sys_admin=p" in_system "getcap $installed"
}

# By dpkg, to which apt leaves all of it but dependencies and the archive.
deb() {
    ok "$1" in_system "dpkg -i /srv/$2/*.deb"
}

# Debian's rpm 4.18 has to be told that this is meant; that of Debian 13 does not know the option.
rpm_does() {
    local force
    force=$(in_system 'rpm --help' | grep -o -- '--force-debian') || true
    ok "rpm $1" in_system "rpm $force --nodeps $*"
}

# All files but those of accounts, package managers, logs and what goes with a reboot.
files() {
    in_system 'find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /tmp -o -path /var/log -o -path /var/lib/dpkg \
        -o -path /var/lib/apt -o -path /var/lib/systemd -o -path /var/lib/rpm -o -path /var/cache -o -path /root -o -path /home \
        -o -name "group*" -o -name "gshadow*" -o -name .pwd.lock \) -prune -o -printf "%M %u:%g %p %l\n" | sort
        find /etc -xdev -type f ! -name "*shadow*" ! -name "group*" -exec sha256sum {} + | sort -k 2' >"$1"
}

configure() {
    in_system "printf '[work]\nNetworkNamespace=vpnWork\nvpn=/etc/openvpn/client/client.conf\n' >/etc/runns.conf"
}

# alice's program in namespace $1, which asks for a page of the VPN's web server again and again.
start_inside() {
    as_user alice ": >beats; runns-exec -d $1 -- sh -c 'while sleep 0.2; do curl -s -m 2 ${2:-http://10.8.0.1/} >>beats; done' >pid" >/dev/null
}

goes_on() {
    # shellcheck disable=SC2016 # expanded in the system
    ok "$1: the program inside goes on" as_user alice \
        'before=$(wc -c <beats); for _ in 1 2 3 4 5 6 7 8 9 10; do sleep 0.3; [ $(wc -c <beats) = $before ] || exec kill -0 $(cat pid); done; false'
}

try_deb() {
    files "$scratch/before"
    ok 'apt installs' in_system 'DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends /srv/old/*.deb'
    intact 'after installation'
    ok 'alice joins the group' in_system 'usermod -aG runns alice'
    says 'the configuration is a conffile' /etc/runns.conf in_system "dpkg-query -W -f '\${Conffiles}' runns-exec"
    ok 'the manual pages are compressed' in_system 'gzip -t /usr/share/man/man8/runns-exec.8.gz /usr/share/man/man5/runns.conf.5.gz'
    configure
    ok 'the unit starts' in_system 'systemctl enable --now runns@work' || return
    start_inside vpnWork
    local daemon
    daemon=$(in_system 'pgrep -x openvpn')

    ok 'dpkg unpacks the new version' in_system 'dpkg --unpack /srv/new/*.deb'
    refused 'alice does not execute what is not configured' as_user alice "$installed --version"
    refused 'nor bob' as_user bob "$installed --version"
    says 'it has no capabilities yet' 'none' in_system "[ -n \"\$(getcap $installed)\" ] || echo none"
    ok 'dpkg configures it' in_system 'dpkg --configure runns-exec'
    intact 'after the upgrade'
    says 'the new version is installed' 0.1.0-1 in_system "dpkg-query -W -f '\${Version}' runns-exec"
    goes_on 'after the upgrade'
    says 'the tunnel has the same daemon' "=$daemon=" in_system "printf '=%s=' \$(pgrep -x openvpn)"
    says 'the unit is active' active in_system 'systemctl is-active runns@work'
    says 'the configuration is kept' vpnWork in_system 'cat /etc/runns.conf'
    says 'alice enters with the new version' 'vpn 10.8.0.' as_user alice 'runns-exec vpnWork -- curl -sS -m 5 http://10.8.0.1/'
    refused 'bob does not' as_user bob 'runns-exec vpnWork -- true'

    deb 'reinstallation' new
    intact 'after reinstallation'
    goes_on 'after reinstallation'
    deb 'going back' old
    intact 'after going back'
    ok 'apt upgrades' in_system 'DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends /srv/new/*.deb'
    intact 'after the upgrade by apt'
    goes_on 'after the upgrade by apt'

    ok 'an override of the administrator' in_system "dpkg-statoverride --update --add root sudo 0750 $installed"
    deb 'installation over the override' new
    says 'the override holds' 'root:sudo 750' in_system "stat -c '%U:%G %a' $installed"
    says 'with capabilities' cap_sys_admin in_system "getcap $installed"
    ok 'the override is removed' in_system "dpkg-statoverride --remove $installed"
    deb 'installation without the override' new
    intact 'without the override'
}

remove_deb() {
    reboot
    wait_for 20 'the unit after a reboot' in_system 'systemctl is-active runns@work'
    build -n demo
    try in_system 'DEBIAN_FRONTEND=noninteractive apt-get remove -q -y runns-exec'
    says 'removal names what still stands' 'namespace demo still exists' printf '%s' "$output"
    refused 'the unit has been cleaned' in_system 'test -e /run/netns/vpnWork'
    ok 'demo is still there' in_system 'test -e /run/netns/demo'
    says 'the configuration stays' vpnWork in_system 'cat /etc/runns.conf'
    deb 'installation after removal' new
    intact 'after removal and installation'
    clean demo -f

    # build leaves files in /etc that a reboot does not take.
    in_system "printf '[tight]\nDNS=192.0.2.1\n' >>/etc/runns.conf && runns-exec build -s tight"
    reboot
    says 'the polkit rule belongs to the package' runns-exec: in_system 'dpkg -S /usr/share/polkit-1/rules.d/50-runns.rules'
    in_system "cp /usr/share/polkit-1/rules.d/50-runns.rules /etc/polkit-1/rules.d/10-copy.rules"
    try in_system 'DEBIAN_FRONTEND=noninteractive apt-get install -q -y --reinstall /srv/new/*.deb'
    says 'installation names a copy of it' 10-copy.rules printf '%s' "$output"
    ok 'purge' in_system 'DEBIAN_FRONTEND=noninteractive apt-get purge -q -y runns-exec'
    says 'purge names a copy of the polkit rule' 10-copy.rules printf '%s' "$output"
    in_system 'rm /etc/polkit-1/rules.d/10-copy.rules'
    files "$scratch/after"
    same 'purge leaves no file' "$scratch/before" "$scratch/after"
    ok 'purge leaves the group' in_system 'getent group runns'

    ok 'without systemd-sysusers' in_system 'groupdel runns && mv /usr/bin/systemd-sysusers /usr/bin/away'
    deb 'installation there' new
    intact 'without systemd-sysusers'
    ok 'purge again' in_system 'mv /usr/bin/away /usr/bin/systemd-sysusers && dpkg --purge runns-exec && groupdel runns'
}

# rpm on Debian: its own database, no dependencies, but the real files and scripts.
try_rpm() {
    rpm_does -i '/srv/old/*.rpm' || return
    intact 'after rpm -i'
    ok 'alice joins the group again' in_system 'usermod -aG runns alice'
    says 'rpm itself finds nothing changed' 'status 0' in_system 'rpm -V --nodeps runns-exec && echo status 0'
    in_system "printf '[mine]\nNetworkNamespace=demo\n' >/etc/runns.conf"
    ok 'the unit of the rpm starts' in_system 'systemctl enable --now runns@mine'
    start_inside demo "http://$web/"
    rpm_does -U '/srv/new/*.rpm'
    intact 'after rpm -U'
    goes_on 'after rpm -U'
    says 'rpm keeps the configuration' demo in_system 'cat /etc/runns.conf'
    rpm_does '-U --replacepkgs' '/srv/new/*.rpm'
    intact 'after rpm -U --replacepkgs'
    goes_on 'after rpm -U --replacepkgs'
    build -n other
    in_system "cp /usr/share/polkit-1/rules.d/50-runns.rules /etc/polkit-1/rules.d/10-copy.rules"
    rpm_does -e runns-exec
    says 'rpm -e names a copy of the polkit rule' 10-copy.rules printf '%s' "$output"
    says 'rpm -e names what still stands' 'namespace other still exists' printf '%s' "$output"
    refused 'rpm -e cleans the units' in_system 'test -e /run/netns/demo'
    refused 'and disables them' in_system 'ls /etc/systemd/system/*.wants/runns@*'
    says 'rpm -e keeps the edited configuration' demo in_system 'cat /etc/runns.conf.rpmsave'
}

scenario() {
    same 'the same sources make the same packages' \
        <(cd "$root/srv/new" && sha256sum ./*) <(cd "$root/srv/again" && sha256sum ./*)
    try_deb
    remove_deb
    try_rpm
}
