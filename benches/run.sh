#!/bin/bash
# Compares runns-exec with other ways of entering a network namespace. Run it as root:
#
#     benches/run.sh [ROUNDS]
#
# Everything runs in a network and a mount namespace of its own, with /run on a tmpfs and a copy of /etc, so the machine
# is not changed. With ENTRY=PROGRAM, a copy of that program is measured instead of a new build.
# shellcheck disable=SC2016,SC2054,SC2012 # scripts for sh; commas between commands; numbers as names
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
rounds=${1:-2000}
uid=64242 gid=64243

if [ "${1:-}" != --inside ]; then
    [ "$(id -u)" = 0 ] || { echo "run.sh: cannot create a sandbox: must be run as root" >&2; exit 1; }
    ENTRY=${ENTRY:-$("$here/../install/build.sh")/runns-exec}
    export ENTRY
    exec unshare -nm --propagation private "$here/run.sh" --inside "$rounds" "$(readlink /proc/self/ns/mnt)"
fi
rounds=$2
# In the mount namespace of the caller it would cover /run and /etc.
[ "$(readlink /proc/self/ns/mnt)" != "$3" ]

# build and clean must run in the namespaces of pid 1. (Everything else runs in the machine's pid namespace, because
# firejail does nothing if it cannot see kernel threads.)
as_pid_1() {
    unshare -pf sh -c 'mount -t proc proc /proc && "$@"; status=$?; umount /proc; exit $status' sh "$@"
}

sandbox() {
    mount -t tmpfs -o mode=755 tmpfs /run
    mkdir -p /run/etc/{upper,work} /run/bin /run/netns /run/runns
    mount -t overlay -o lowerdir=/etc,upperdir=/run/etc/upper,workdir=/run/etc/work overlay /etc
    echo "member:x:$uid:$uid::/:/bin/sh" >> /etc/passwd
    echo "member:*:19000:0:99999:7:::" >> /etc/shadow
    echo "member:x:$uid:" >> /etc/group
    echo "runns:x:$gid:member" >> /etc/group
    echo "member ALL=(ALL) NOPASSWD: ALL" > /etc/sudoers.d/member
    chmod 0440 /etc/sudoers.d/member
    printf '[bench]\nNetworkNamespace=bench\n' > /etc/runns.conf
    if [ -d /etc/firejail ]; then printf 'network yes\nrestricted-network no\n' > /etc/firejail/firejail.config; fi
    echo 'nameserver 192.0.2.1' > /run/etc/resolver
    [ -e /etc/resolv.conf ] || touch /etc/resolv.conf
    ip link set lo up
    # On a disk, as programs usually are: the kernel maps a file on a tmpfs page by page.
    mount --bind "$bin" /run/bin
    gcc -O2 -Wall -static -o /run/bin/bare "$here/bare.c"
    gcc -O2 -Wall -o /run/bin/rounds "$here/rounds.c"
    cp "$ENTRY" /run/bin/runns-exec
    # One of a version before there were two programs needs no other.
    if [ -e "$(dirname "$ENTRY")/runns-exec-root" ]; then
        install -D -m 0755 "$(dirname "$ENTRY")/runns-exec-root" /run/libexec/runns-exec/runns-exec-root
    fi
    for program in bare runns-exec; do
        chown root:$gid /run/bin/$program
        chmod 0750 /run/bin/$program
        setcap cap_net_admin,cap_sys_admin=p /run/bin/$program
    done
    as_pid_1 /run/bin/runns-exec build -s bench -r /run/etc/resolver > /dev/null
}

# Runs `rounds N COMMANDS` with the environment of a user.
measure() {
    env -i GROUP=$gid PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin HOME=/ LANG=C.UTF-8 USER=member LOGNAME=member \
        SHELL=/bin/sh TERM=xterm EDITOR=vi XDG_RUNTIME_DIR=/run/user/$uid /run/bin/rounds "$@"
}

header() {
    printf '\n%s\n%-34s %6s %9s %9s %8s\n' "$1" command runs 'median us' 'tenth us' ratio
}

all() {
    local also=()
    if type -P firejail > /dev/null; then
        also+=(, "firejail --noprofile --netns:$uid:20" firejail --quiet --noprofile --netns=bench /bin/true)
    fi
    if type -P sudo > /dev/null; then
        also+=(, "sudo ip netns exec, sudo -u:$uid:20" sudo -n ip netns exec bench sudo -n -u member /bin/true)
    fi
    header 'Entering: whole processes that run /bin/true'
    measure "$rounds" "bare exec:$uid:1" /bin/true \
        , "C program, same calls:$uid:1" /run/bin/bare bench /bin/true \
        , "runns-exec:$uid:1" /run/bin/runns-exec bench /bin/true \
        , "ip netns exec:0:1" ip netns exec bench /bin/true \
        , "nsenter --net:0:1" nsenter --net=/run/netns/bench /bin/true "${also[@]}"
}

three() {
    measure $((rounds / 4)) "bare exec:$uid:1" /bin/true \
        , "C program, same calls:$uid:1" /run/bin/bare bench /bin/true \
        , "runns-exec:$uid:1" /run/bin/runns-exec bench /bin/true \
        , "ip netns exec:0:1" ip netns exec bench /bin/true
}

# The sandbox has no log, but machines usually do. Here socat listens at /dev/log, so that the message is composed and
# sent.
logging() {
    mkdir /run/dev
    cp -a /dev/null /dev/full /dev/zero /dev/urandom /run/dev/
    mount --bind /run/dev /dev
    socat -u UNIX-RECV:/dev/log,mode=666 OPEN:/dev/null &
    pids+=($!)
    while [ ! -S /dev/log ]; do sleep 0.05; done
    header 'With a listener at /dev/log'
    three
    umount -l /dev
}

changed_hosts() {
    cp -p /etc/hosts /run/etc/hosts
    echo '# changed after build' >> /etc/hosts
    header 'With an /etc/hosts that has changed since build'
    three
    cp -p /run/etc/hosts /etc/hosts
}

sections() {
    local number
    for number in $(seq 50); do
        printf '[other%s]\nvpn=/etc/openvpn/client/%s.conf\nKillSwitch=yes\nAllowGroups=staff\nDNS=10.8.0.1\n' "$number" "$number"
    done >> /etc/runns.conf
    header 'With 50 more sections of five lines in the configuration (the C program reads none)'
    three
    printf '[bench]\nNetworkNamespace=bench\n' > /etc/runns.conf
}

namespaces() {
    local made=1 wanted
    for wanted in 10 100 1000; do
        for ((; made < wanted; made++)); do ip netns add "other$made"; done
        header "With $wanted named namespaces"
        three
    done
    for ((made--; made > 0; made--)); do ip netns delete "other$made"; done
}

mounts() {
    local made=0 wanted
    mkdir /run/many
    for wanted in 10 100 1000; do
        for ((; made < wanted; made++)); do
            mkdir "/run/many/$made"
            mount -t tmpfs tmpfs "/run/many/$made"
        done
        header "With $wanted more mounts"
        three
    done
}

listing() {
    for _ in $(seq 20); do
        setpriv --reuid $uid --regid $uid --groups $gid /run/bin/runns-exec bench -- sleep 300 > /dev/null &
        pids+=($!)
    done
    header "Listing, with 20 processes in the namespace and $(ls -d /proc/[0-9]* | wc -l) in all"
    measure $((rounds / 10)) "runns-exec list -a:0:1" /run/bin/runns-exec list -a , "lsns -t net:0:1" lsns -t net
}

# Prints a script of eleven calls of ip and iptables that makes what people make by hand: a namespace with a veth pair, a
# default route and NAT.
by_hand() {
    cat << END
set -e
ip netns add hand
ip -n hand link set lo up
ip link add hand type veth peer name eth0 netns hand
ip address add 172.24.200.1/24 dev hand
ip link set hand up
ip -n hand address add 172.24.200.2/24 dev eth0
ip -n hand link set eth0 up
ip -n hand route add default via 172.24.200.1
iptables -w -t nat -A POSTROUTING -s 172.24.200.0/24 -j MASQUERADE
iptables -w -A FORWARD -i hand -j ACCEPT
iptables -w -A FORWARD -o hand -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
echo 1 > /proc/sys/net/ipv4/ip_forward
mkdir -p /etc/netns/hand
cp /run/etc/resolver /etc/netns/hand/resolv.conf
END
}

building() {
    by_hand > /run/by-hand
    printf 'set -e\nip netns delete hand\nrm -r /etc/netns/hand\n' > /run/undo
    grep '^iptables' /run/by-hand | sed 's/ -A / -D /' >> /run/undo
    header "Building: compared with a script of $(grep -c '^ip' /run/by-hand) calls of ip and iptables, and one that undoes it"
    as_pid_1 env -i GROUP=0 PATH="$PATH" /run/bin/rounds $((rounds / 50 + 1)) \
        "runns-exec build:0:1" /run/bin/runns-exec build -n timed -r /run/etc/resolver \
        , "script of ip and iptables:0:1" sh /run/by-hand \
        , "runns-exec clean:0:1" /run/bin/runns-exec clean -n timed \
        , "script that undoes it:0:1" sh /run/undo
}

bin=$(mktemp -d "${TMPDIR:-/var/tmp}/runns-bench.XXXXXX")
chmod 755 "$bin"
pids=()
trap 'rm -rf "$bin"; [ ${#pids[@]} = 0 ] || kill "${pids[@]}"' EXIT
sandbox
all
if type -P socat > /dev/null; then logging; fi
changed_hosts
sections
building
listing
namespaces
mounts
