# shellcheck shell=bash disable=SC2034,SC2154
# Docker sets the policy of FORWARD to drop, and turns forwarding on.
packages='docker.io busybox-static'
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
    try in_system "mkdir -p /tmp/image/bin && cp /bin/busybox /tmp/image/bin/ && ln -sf busybox /tmp/image/bin/wget &&
        tar -C /tmp/image -c . | docker import - box && docker run --rm box wget -q -T 5 -O - http://$web/"
    if [ "$status" = 0 ]; then
        container=yes
    else
        not_run 'a container beside a namespace' "$output"
    fi
}

containers() {
    [ -z "$container" ] ||
        says 'a container has traffic' "internet $address" in_system "docker run --rm box wget -q -T 5 -O - http://$web/"
}

scenario() {
    build -n demo || return
    use demo
    start_docker || return
    use demo
    try_container
    ok 'docker restarts' in_system 'systemctl restart docker'
    use demo
    containers
    ok 'forwarding is left on for docker' in_system 'runns-exec clean demo -f'
    containers

    snapshot "$scratch/before"
    build -n demo || return
    use demo
    containers
    clean demo -f
    containers
    snapshot "$scratch/after"
    same 'the host is as it was' "$scratch/before" "$scratch/after"
}
