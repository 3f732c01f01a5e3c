# shellcheck shell=bash disable=SC2034,SC2154
# Docker sets the policy of FORWARD to drop, and turns forwarding on.
packages=docker.io
[ "$release" = debian12 ] || packages="$packages docker-cli"

prepare() {
    # Docker cannot lay its overlays on the overlay that the system is.
    mkdir -p "$root/var/lib/docker" "$root/etc/systemd/system"
    cat >"$root/etc/systemd/system/var-lib-docker.mount" <<'END'
[Unit]
Before=docker.service containerd.service
[Mount]
What=tmpfs
Where=/var/lib/docker
Type=tmpfs
[Install]
RequiredBy=docker.service
END
    systemctl --root="$root" enable --quiet var-lib-docker.mount
    systemctl --root="$root" disable --quiet docker.service docker.socket
}

start_docker() {
    ok 'docker starts' in_system 'systemctl start docker && docker info'
}

# Sets $container to yes if containers run here.
try_container() {
    container=
    # An image of curl and its libraries.
    # shellcheck disable=SC2016 # expanded in the system
    try in_system 'tar -C / -chf - $({ echo /usr/bin/curl; ldd /usr/bin/curl | grep -o "/[^ ]*"; } | cut -c2-) |
        docker import - box && docker run --rm box curl -sS -m 5 '"http://$web/"
    if [ "$status" = 0 ]; then
        container=yes
    else
        not_run 'a container beside a namespace' "$output"
    fi
}

containers() {
    local box="docker run --rm box curl -sS -m 5 http://$web/"
    [ -z "$container" ] || says "a container has traffic $1" "internet $address" in_system "$box"
}

scenario() {
    build -n demo || return
    use demo
    start_docker || return
    use demo
    try_container
    ok 'docker restarts' in_system 'systemctl reset-failed docker && systemctl restart docker'
    use demo
    containers 'beside a namespace that was there first'
    # Docker has found forwarding turned on, and relies on it.
    clean demo -f
    containers 'after clean -f of a namespace that was there first'

    # Started where forwarding is off, Docker turns it on and has FORWARD drop.
    ok 'docker starts first' in_system 'systemctl reset-failed docker && systemctl stop docker && sysctl -q net.ipv4.ip_forward=0 && systemctl start docker'
    says 'docker drops what is forwarded' '-P FORWARD DROP' in_system 'iptables -S FORWARD'
    snapshot "$scratch/before"
    build -n demo || return
    use demo
    containers 'beside a namespace'
    ok 'docker restarts' in_system 'systemctl reset-failed docker && systemctl restart docker'
    use demo
    clean demo -f
    containers 'after clean -f'
    snapshot "$scratch/after"
    same 'the host is as it was' "$scratch/before" "$scratch/after"

    build -n demo
    reboot
    ok 'docker starts' in_system 'systemctl start docker'
    build -n demo
    use demo
    clean demo -f
    ways 'beside Docker'
}
