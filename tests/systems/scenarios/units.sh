# shellcheck shell=bash disable=SC2034,SC2154
# runns@.service: at boot, stop, reload, failure, and who may do it.

prepare() {
    start_openvpn
    cp -R "$program/install" "$root/srv/"
    cp "$root/etc/openvpn/client/client.conf" "$root/etc/openvpn/client/broken.conf"
    sed "s/^remote .*/remote $gateway 1195/" "$root/etc/openvpn/client/client.conf" >"$root/etc/openvpn/client/silent.conf"
    sed -i 's/^ca .*/ca missing.crt/' "$root/etc/openvpn/client/broken.conf"
    for unit in other.service xrunns@.service; do
        printf '[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n' >"$root/etc/systemd/system/$unit"
    done
    printf '[Unit]\nDescription=A target\n' >"$root/etc/systemd/system/runns@.target"
    cat >"$scratch/runns.conf" <<'END'
[work]
NetworkNamespace=vpnWork
vpn=/etc/openvpn/client/client.conf
[my-site]
InterfaceOut=eth0
[broken]
vpn=/etc/openvpn/client/broken.conf
[silent]
vpn=/etc/openvpn/client/silent.conf
END
}

tunnelled() {
    says "$1: traffic goes through the tunnel" 'vpn 10.8.0.' as_user alice 'runns-exec vpnWork -- curl -sS -m 5 http://10.8.0.1/'
}

# alice may $2... only with the rule.
may() {
    local what=$1
    shift
    ok "alice may $what" as_user alice "systemctl --no-ask-password $*"
}

may_not() {
    local what=$1 user=$2
    shift 2
    refused "$user may not $what" as_user "$user" "systemctl --no-ask-password $*"
}

try_unit() {
    ok 'enable' in_system 'systemctl enable runns@work'
    snapshot "$scratch/before"
    ok 'start' in_system 'systemctl start runns@work' || return
    tunnelled 'start'
    # shellcheck disable=SC2016 # expanded in the system
    says 'the daemon belongs to the unit' 'runns@work.service' in_system 'cat /proc/$(pgrep -x openvpn)/cgroup'
    as_user alice 'runns-exec -d vpnWork -- sleep 300' >/dev/null
    local words
    for words in 'openvpn-vpnWork[' 'built vpnWork' 'netns=vpnWork command=sleep' 'Finished runns@work'; do
        wait_for 5 "the log has $words" in_system "runns-exec log work | grep -F '$words'"
    done
    ok 'stop, with a program inside' in_system 'systemctl stop runns@work'
    refused 'the program has been ended' in_system 'pgrep -x sleep'
    says 'nothing is wrong with the stopped unit' inactive in_system 'systemctl is-active runns@work'
    snapshot "$scratch/after"
    same 'stop leaves the host as it was' "$scratch/before" "$scratch/after"

    ok 'start again' in_system 'systemctl start runns@work'
    as_user alice 'runns-exec -d vpnWork -- sleep 300' >/dev/null
    ok 'reload' in_system 'systemctl reload runns@work'
    in_system "sed -i 's/^NetworkNamespace=vpnWork$/&\\nMTU=1400/' /etc/runns.conf"
    says 'status shows that the section has changed' 'MTU: not set -> 1400' in_system 'runns-exec status vpnWork'
    ok 'reload of a changed section' in_system 'systemctl reload runns@work'
    says 'it was applied' 'mtu 1400' in_system 'ip link show vpnWork'
    ok 'the program goes on' in_system 'pgrep -x sleep'
    in_system "sed -i '/^MTU=1400$/d' /etc/runns.conf"
    ok 'reload of the section as it was' in_system 'systemctl reload runns@work'
    ok 'reload leaves the program alone' in_system 'pgrep -x sleep'
    ok 'restart' in_system 'systemctl restart runns@work'
    tunnelled 'restart'

    in_system 'pkill -KILL -x openvpn'
    wait_for 5 'the end of the daemon' in_system '! pgrep -x openvpn'
    says 'the unit outlives its daemon' active in_system 'systemctl is-active runns@work'
    says 'status says why the tunnel is down' 'its daemon has exited' as_user alice 'runns-exec status vpnWork'
    ok 'reload repairs' in_system 'systemctl reload runns@work'
    tunnelled 'reload after the daemon has died'
    in_system 'pkill -KILL -x openvpn'
    wait_for 5 'the end of the daemon' in_system '! pgrep -x openvpn'
    ok 'restart after the daemon has died' in_system 'systemctl restart runns@work'
    tunnelled 'restart after the daemon has died'

    ok 'root cleans by hand' in_system 'runns-exec clean vpnWork -f'
    ok 'reload builds what is gone' in_system 'systemctl reload runns@work'
    tunnelled 'reload'
    ok 'root cleans by hand again' in_system 'runns-exec clean vpnWork -f'
    ok 'stop of what is gone' in_system 'systemctl stop runns@work'
    snapshot "$scratch/after"
    same 'the host is as it was' "$scratch/before" "$scratch/after"
}

# A stop that comes in the middle of a reload, and one that meets a process of the unit which ignores SIGTERM.
try_hard_stop() {
    ok 'start for hard stops' in_system 'systemctl start runns@work' || return
    as_user alice 'runns-exec -d vpnWork -- sleep 300' >/dev/null
    in_system 'systemd-run --quiet --unit=holder flock /run/runns/lock sleep 300'
    wait_for 10 'the lock to be held' in_system '! flock --nonblock /run/runns/lock true'
    in_system 'systemctl reload --no-block runns@work'
    wait_for 10 'a reload that waits for the lock' in_system 'systemctl is-active runns@work | grep -x reloading'
    in_system 'systemctl stop --no-block runns@work'
    wait_for 10 'clean to wait for it as well' in_system "pgrep -f -- '[c]lean --section=work'"
    ok 'the tunnel is still there' in_system 'pgrep -x openvpn'
    in_system 'systemctl stop holder'
    wait_for 20 'the end of the namespace' in_system '! ls /run/netns/vpnWork'
    refused 'its tunnel has been ended' in_system 'pgrep -x openvpn'
    refused 'and its program' in_system 'pgrep -x sleep'
    in_system 'systemctl reset-failed runns@work'
    snapshot "$scratch/after"
    same 'the host is as it was' "$scratch/before" "$scratch/after"

    ok 'start again for a hard stop' in_system 'systemctl start runns@work' || return
    # shellcheck disable=SC2016 # expanded in the system
    in_system 'systemd-run --quiet --unit=stubborn sh -c "trap \"\" TERM; while :; do sleep 1; done"
        systemctl show --property=MainPID --value stubborn >/run/stubborn
        cat /run/stubborn >"/sys/fs/cgroup$(systemctl show --property=ControlGroup --value runns@work)/cgroup.procs"'
    # shellcheck disable=SC2016 # expanded in the system
    says 'it belongs to the unit' 'runns@work' in_system 'cat /proc/$(cat /run/stubborn)/cgroup'
    ok 'stop in spite of it' in_system 'timeout 60 systemctl stop runns@work'
    refused 'the namespace is gone' in_system 'ls /run/netns/vpnWork'
    # shellcheck disable=SC2016 # expanded in the system
    in_system 'kill -KILL $(cat /run/stubborn); rm /run/stubborn; systemctl reset-failed'
}

# What root has built differently is not the unit's to clean when its start fails.
try_built_differently() {
    ok 'root builds it with another MTU' in_system "sed 's/^NetworkNamespace=vpnWork$/&\nMTU=1300/' /etc/runns.conf >/tmp/other.conf &&
        runns-exec build --config /tmp/other.conf work"
    as_user alice 'runns-exec -d vpnWork -- sleep 300' >/dev/null
    refused 'the unit does not start' in_system 'systemctl start runns@work'
    ok 'the program of the other goes on' in_system 'pgrep -x sleep'
    ok 'root cleans it' in_system 'runns-exec clean vpnWork -f --kill && systemctl reset-failed runns@work'
}

try_reload() {
    ok 'a section with a hyphen' in_system 'systemctl start runns@my-site' || return
    use my-site
    local table
    table=$(in_system 'ip rule' | sed -n 's/.*fwmark 0x81.* lookup \([0-9]*\).*/\1/p' | head -n 1)
    ok 'the uplink loses its route' in_system "ip route delete default via $gateway table $table"
    no_traffic my-site
    ok 'reload repairs' in_system 'systemctl reload runns@my-site'
    use my-site
    ok 'stop my-site' in_system 'systemctl stop runns@my-site'
}

try_failure() {
    refused 'a section that does not exist' in_system 'systemctl start runns@nosuch'
    # It gets there a moment later. systemctl status of systemd 252 sometimes leaves out a line that reached the journal after
    # the unit's failure did.
    wait_for 5 'the journal says so' in_system \
        'journalctl --no-pager -u runns@nosuch | grep -F "there is no section [nosuch]"'
    refused 'a tunnel that cannot start' in_system 'systemctl start runns@broken'
    wait_for 5 'the journal has the reason of build' in_system 'journalctl --no-pager -u runns@broken | grep -F missing.crt'
    refused 'nothing is left of it' in_system 'ls /run/netns/broken || pgrep -x openvpn'
    snapshot "$scratch/before"
    in_system 'systemctl start --no-block runns@silent'
    wait_for 10 'a tunnel that does not come up' in_system 'pgrep -x openvpn'
    ok 'stop while it starts' in_system 'systemctl stop runns@silent; systemctl reset-failed runns@silent || true'
    snapshot "$scratch/after"
    same 'the host is as it was' "$scratch/before" "$scratch/after"
    # As the manual says, for a tunnel that cannot be brought up yet.
    in_system 'mkdir -p /etc/systemd/system/runns@broken.service.d &&
        printf "[Service]\nRestart=on-failure\nRestartSec=2\n" >/etc/systemd/system/runns@broken.service.d/again.conf &&
        systemctl daemon-reload && systemctl start --no-block runns@broken'
    wait_for 10 'a first failure' in_system 'systemctl show --property NRestarts runns@broken | grep -v =0'
    in_system 'cp /etc/openvpn/client/client.conf /etc/openvpn/client/broken.conf'
    wait_for 20 'the unit is tried again' in_system 'systemctl is-active runns@broken'
    ok 'it stops' in_system 'systemctl stop runns@broken'
    ok 'reset' in_system "systemctl reset-failed 'runns@*'"
}

try_polkit() {
    may_not 'start a unit unless root says so' alice start runns@my-site
    ok 'root says so' in_system "$grant"
    wait_for 5 'polkit to read it' as_user alice 'systemctl --no-ask-password start runns@my-site'
    may 'reload it' reload runns@my-site
    may 'restart it' restart runns@my-site
    may 'stop it' stop runns@my-site
    may_not 'start it' bob start runns@my-site
    # Units that exist, so that nothing but the rule refuses.
    local unit
    for unit in other.service xrunns@my-site.service runns@my-site.target; do
        may_not "start $unit" alice start "$unit"
        ok "root starts $unit" in_system "systemctl start $unit"
        may_not "stop $unit" alice stop "$unit"
    done
    may_not 'enable it' alice enable runns@my-site
    may_not 'mask it' alice mask --runtime runns@my-site
    may_not 'change its properties' alice set-property --runtime runns@my-site CPUWeight=5
    may 'start it again' start runns@my-site
    may_not 'stop it' bob stop runns@my-site
    may_not 'kill it' alice kill runns@my-site
    ok 'stop it' in_system 'systemctl stop runns@my-site'
    try_transient 'with the template'
    # systemd refuses a transient unit of which there is a file. Nothing depends on that.
    ok 'the template goes' in_system "mv $template /tmp/ && systemctl daemon-reload"
    try_transient 'without the template'
    # shellcheck disable=SC2016 # expanded in the system
    if in_system '[ "$(systemctl --version | sed -n "1s/systemd \([0-9]*\).*/\1/p")" -ge 257 ]'; then
        in_system 'cat >/etc/polkit-1/rules.d/00-control.rules' <<'END'
polkit.addRule(function (action, subject) {
    if (action.lookup("unit") == "runns@evil.service" && action.lookup("verb") == "start") { return polkit.Result.YES; }
});
END
        wait_for 5 'the attack to work with a rule that trusts unit and verb' as_user alice "$transient"
        wait_for 5 'the command to run' in_system 'test -e /evil'
        in_system 'rm /etc/polkit-1/rules.d/00-control.rules /evil'
    fi
    ok 'the template comes back' in_system "mv /tmp/runns@.service $template && systemctl daemon-reload"
}

# The section is built, and again after each boot, until the unit is disabled.
try_at_boot() {
    local build='runns-exec build my-site --at-boot' enabled='systemctl is-enabled runns@my-site'
    ok 'the template is gone' in_system "mv $template /tmp/ && systemctl daemon-reload"
    says 'build needs the unit' 'hint: install it' in_system "$build 2>&1 || true"
    ok 'the template is back' in_system "mv /tmp/runns@.service $template && systemctl daemon-reload"
    ok 'root masks the unit' in_system 'systemctl mask runns@my-site'
    says 'a masked unit is refused' 'sudo systemctl unmask runns@my-site.service' in_system "$build 2>&1 || true"
    ok 'root unmasks it' in_system 'systemctl unmask runns@my-site'
    says 'a dry run says what it would do' 'would enable runns@my-site.service' in_system "$build --dry-run"
    refused 'nothing was built' in_system 'ls /run/netns/my-site'
    refused 'nothing was enabled' in_system "$enabled"
    says 'build enables the unit' 'runns@my-site.service is enabled' in_system "$build"
    says 'it is enabled' enabled in_system "$enabled"
    use my-site
    says 'again, with it enabled' 'is built already, as asked' in_system "$build"
    says 'clean says that it comes back' 'sudo systemctl disable runns@my-site.service' in_system 'runns-exec clean my-site -f'
}

# Somebody who may start a unit of this name must not decide what it executes.
try_transient() {
    local user
    for user in alice bob; do
        refused "$1, $user may not run a command as such a unit" as_user "$user" "$transient"
        refused "$1, $user may not run a command as another unit" as_user "$user" \
            'systemd-run --no-ask-password --unit=evil.service /bin/touch /evil'
        refused "$1, $user may not run one beside such a unit" as_user "$user" \
            'busctl call org.freedesktop.systemd1 /org/freedesktop/systemd1 org.freedesktop.systemd1.Manager StartTransientUnit \
                "ssa(sv)a(sa(sv))" runns@my-site.service replace 0 1 evil.service 1 ExecStart "a(sasb)" 1 /bin/touch 2 touch /evil false'
    done
    refused "$1, nothing was run" in_system 'test -e /evil'
}

# What is left after removal names what root has added, and grants nothing.
try_removal() {
    local copy=/etc/polkit-1/rules.d/10-copy.rules
    ok 'a copy of the rule' in_system "cp /usr/share/polkit-1/rules.d/50-runns.rules $copy"
    try in_system /srv/install/uninstall.sh
    for file in "$copy" /etc/polkit-1/rules.d/50-runns-groups.rules; do
        says "removal names $file" "$file" printf '%s' "$output"
    done
    refused 'the rule has gone' in_system 'ls /usr/share/polkit-1/rules.d/50-runns.rules'
    try_transient 'after removal'
}

template=/usr/local/lib/systemd/system/runns@.service
transient='systemd-run --no-ask-password --unit=runns@evil.service --property=Type=oneshot /bin/touch /evil'
# As the manual says.
grant="echo 'polkit.runnsGroups = [\"runns\"];' >/etc/polkit-1/rules.d/50-runns-groups.rules"

scenario() {
    in_system 'cat >/etc/runns.conf' <"$scratch/runns.conf"
    try_unit || return
    try_hard_stop
    try_built_differently
    try_reload
    try_failure
    try_polkit
    try_at_boot
    ok 'start before the reboot' in_system 'systemctl start runns@work'
    as_user alice 'runns-exec -d vpnWork -- sleep 300' >/dev/null
    reboot
    wait_for 30 'the unit after the reboot' in_system 'systemctl is-active runns@work'
    tunnelled 'reboot'
    wait_for 30 'what was built with --at-boot' in_system 'systemctl is-active runns@my-site'
    use my-site
    ok 'its unit is disabled' in_system 'systemctl disable runns@my-site'
    ok 'it stops' in_system 'systemctl stop runns@my-site'
    refused 'systemd is not told how to disable it' in_system 'journalctl -u runns@my-site | grep "at the next boot"'
    says 'no unit has failed' '0 loaded units' in_system "systemctl list-units --failed 'runns@*'"
    ok 'disable' in_system 'systemctl disable --now runns@work'
    refused 'it is gone' in_system 'ls /run/netns/vpnWork'
    try_removal
}
