# shellcheck shell=bash
# A host of namespaces with the programs installed, and a server behind its uplink: sourced by scale.sh and tunnel.sh, which
# run in namespaces of their own.

server=198.51.100.1

sandbox() {
    mount --make-shared /
    mount -t tmpfs -o mode=755 tmpfs /run
    mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
    mkdir -p /run/etc/{upper,work} /run/bin /run/libexec/runns-exec
    mount -t overlay -o lowerdir=/etc,upperdir=/run/etc/upper,workdir=/run/etc/work overlay /etc
    grep -q ^runns: /etc/group || echo 'runns:x:64243:' >>/etc/group
    : >/etc/runns.conf
    install -m 0755 "$ENTRY" /run/bin/runns-exec
    install -m 0755 "$(dirname "$ENTRY")/runns-exec-root" /run/libexec/runns-exec/
    export PATH=/run/bin:$PATH
    ip link set lo up
    # The host's uplink, and a server behind it.
    unshare -n sleep infinity &
    outside=$!
    until [ "$(readlink /proc/$outside/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.01; done
    ip link add eth0 type veth peer name eth0 netns $outside
    ip address add 192.0.2.2/24 dev eth0
    ip link set eth0 up
    out ip address add 192.0.2.1/24 dev eth0
    out ip address add $server/32 dev lo
    out ip link set eth0 up
    out ip link set lo up
    ip route add default via 192.0.2.1
}

out() { nsenter -t "$outside" -n "$@"; }

# The median of lines of numbers.
median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }
