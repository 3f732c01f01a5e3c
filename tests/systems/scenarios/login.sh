# shellcheck shell=bash disable=SC2034,SC2154
# Ways to log in, each with a session of logind's.
packages=systemd-container

prepare() {
    ssh-keygen -q -t ed25519 -N '' -f "$scratch/key"
    install -d -o 1000 -g 1000 -m 700 "$root/home/alice/.ssh"
    install -o 1000 -g 1000 -m 600 "$scratch/key" "$root/home/alice/.ssh/id_ed25519"
    install -o 1000 -g 1000 -m 600 "$scratch/key.pub" "$root/home/alice/.ssh/authorized_keys"
}

# From outside, and to localhost.
by_ssh() {
    ssh -q -F none -i "$scratch/key" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null "$@"
}

scenario() {
    local ssh='ssh -o StrictHostKeyChecking=accept-new localhost'
    build -n demo || return
    use demo
    says 'su' "internet $address" as_user alice "runns-exec demo -- curl -sS -m 5 http://$web/"
    says 'ssh to localhost' "internet $address" as_user alice "$ssh runns-exec demo -- curl -sS -m 5 http://$web/"
    says 'ssh from outside' "internet $address" by_ssh "alice@$address" "runns-exec demo -- curl -sS -m 5 http://$web/"
    says 'ssh with a terminal' 'not a tty: no' by_ssh -tt "alice@$address" \
        "runns-exec --pty demo -- sh -c 'tty >/dev/null && echo not a tty: no'"
    ok 'ssh returns at once from --detach' timeout 5 ssh -q -F none -i "$scratch/key" -o StrictHostKeyChecking=no \
        -o UserKnownHostsFile=/dev/null "alice@$address" 'runns-exec -d demo -- sleep 30'
    # shellcheck disable=SC2016 # expanded by alice's shell
    ok 'so does a command substitution' as_user alice 'timeout 5 sh -c "pid=\$(runns-exec -d demo -- sleep 30 2>&1)"'
    says 'what was detached outlives its session' 'sleep 30' as_user alice 'runns-exec list demo'
    says 'machinectl shell' "internet $address" in_system \
        "script -qec 'machinectl -q shell alice@.host /usr/local/bin/runns-exec demo -- /usr/bin/curl -sS -m 5 http://$web/' /dev/null"
    says 'a user service' "internet $address" in_system "systemd-run --quiet --pipe --wait --uid=alice --gid=alice \
        --property=PAMName=login --property=Group=alice /usr/local/bin/runns-exec demo -- /usr/bin/curl -sS -m 5 http://$web/"
    refused 'bob does not get in by ssh' in_system \
        'su -l bob -c "runns-exec demo -- true"'
    clean demo -f --kill
}
