# Becomes pid 1 of a test host: called with bash, in new network, mount, pid, uts and ipc namespaces.
# $1: an empty directory; $2: the source tree; $3: the directory of the built program.
# Says "ready PID" (its pid outside) and ends, with all that runs in the host, when its input ends.
set -eu
umask 022
read -r pid _ </proc/self/stat
base=$1
mount --make-rprivate /
mount -t tmpfs -o mode=755 runns-test "$base"
mkdir "$base/upper" "$base/work" "$base/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$base/upper,workdir=$base/work" "$base/root"
cd "$base/root"

# What is a mount of its own on the real machine is not in the overlay.
for directory in usr etc var opt home; do
    if mountpoint -q "/$directory"; then
        mkdir "$base/upper.$directory" "$base/work.$directory"
        mount -t overlay overlay -o "lowerdir=/$directory,upperdir=$base/upper.$directory,workdir=$base/work.$directory" "$directory"
    fi
done
mkdir -p runns-source runns-build
mount --bind "$2" runns-source
mount --bind "$3" runns-build
mount -o remount,bind,ro runns-source
mount -o remount,bind,ro runns-build

mount -t proc -o nosuid,nodev,noexec proc proc
mount -t sysfs -o nosuid,nodev,noexec sysfs sys
mount --rbind /sys/fs/cgroup sys/fs/cgroup
mount -t tmpfs -o nosuid,nodev,mode=755 tmpfs run
mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs tmp
mount -t tmpfs -o nosuid,mode=755 devtmpfs dev
(
    umask 0
    mknod -m 666 dev/null c 1 3
    mknod -m 666 dev/zero c 1 5
    mknod -m 666 dev/full c 1 7
    mknod -m 666 dev/random c 1 8
    mknod -m 666 dev/urandom c 1 9
    mknod -m 666 dev/tty c 5 0
    mkdir -m 755 dev/net dev/pts
    mkdir -m 1777 dev/shm
    mknod -m 666 dev/net/tun c 10 200
)
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s /proc/self/fd/0 dev/stdin
ln -s /proc/self/fd/1 dev/stdout
ln -s /proc/self/fd/2 dev/stderr
mkdir -p run/lock mnt/old
pivot_root . mnt/old
umount -l /mnt/old
rmdir /mnt/old
cd /
# As on every distribution with systemd: what is mounted here is seen everywhere.
mount --make-rshared /

# A host without anything of runns-exec, and with a resolver and names of its own.
rm -rf /etc/netns /etc/runns.conf /etc/runns.conf.d /etc/runns /etc/nscd.conf /usr/local/bin/runns-exec /usr/local/libexec/runns-exec \
    /usr/bin/runns-exec /usr/libexec/runns-exec
rm -f /etc/resolv.conf /etc/hosts /etc/nsswitch.conf
echo 'nameserver 192.0.2.1' >/etc/resolv.conf
echo '127.0.0.1 localhost' >/etc/hosts
printf 'passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n' >/etc/nsswitch.conf
# Of the machine's accounts only those that every Debian system has (base-passwd); what useradd does is known, too.
known='root|daemon|bin|sys|sync|games|man|lp|mail|news|uucp|proxy|www-data|backup|list|irc|_apt|nobody|nogroup|adm|tty|disk|dialout|fax|voice|cdrom|floppy|tape|sudo|audio|dip|operator|src|shadow|utmp|video|sasl|plugdev|staff|users|tcpdump|messagebus'
for file in passwd shadow group gshadow; do
    # A new file, not an edit: the machine's may have a lock, or be a symbolic link.
    grep -E "^($known):" "/etc/$file" >"/tmp/$file" || true
    # Groups without members.
    case $file in g*) sed -i 's/:[^:]*$/:/' "/tmp/$file" ;; esac
    rm -f "/etc/$file" "/etc/$file-" "/etc/$file.lock"
    case $file in *shadow) mode=640 ;; *) mode=644 ;; esac
    install -m "$mode" "/tmp/$file" "/etc/$file"
done
rm -f /tmp/passwd /tmp/shadow /tmp/group /tmp/gshadow /etc/.pwd.lock /etc/subuid /etc/subgid
printf 'UID_MIN 1000\nUID_MAX 60000\nSYS_UID_MIN 100\nSYS_UID_MAX 999\nGID_MIN 1000\nGID_MAX 60000\nSYS_GID_MIN 100\nSYS_GID_MAX 999\nUSERGROUPS_ENAB yes\nENCRYPT_METHOD SHA512\nUMASK 022\n' >/etc/login.defs
rm -rf /etc/sudoers.d /etc/profile.d /etc/skel
mkdir /etc/sudoers.d /etc/profile.d /etc/skel
printf 'Defaults env_reset\nroot ALL=(ALL:ALL) ALL\n%%sudo ALL=(ALL:ALL) ALL\n@includedir /etc/sudoers.d\n' >/etc/sudoers
chmod 440 /etc/sudoers
rm -f /etc/ld.so.preload /etc/tmux.conf /etc/bash.bashrc /etc/environment /etc/localtime /etc/default/useradd
ln -s /usr/share/zoneinfo/UTC /etc/localtime
mount -t tmpfs -o mode=700 tmpfs /root
mount -t tmpfs -o mode=755 tmpfs /home
echo testhost >/proc/sys/kernel/hostname
ip link set lo up
# Addresses without a tentative phase; forwarding as a fresh machine has it.
echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad
echo 0 >/proc/sys/net/ipv6/conf/all/accept_dad
echo 0 >/proc/sys/net/ipv4/ip_forward

echo "ready $pid"
# Children that nobody waits for are reaped by bash whenever they end.
while read -r _; do :; done
