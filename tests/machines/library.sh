# shellcheck shell=bash disable=SC2034,SC2154
# How a machine boots and is reached, in place of what tests/systems/library.sh has for containers. All else is the same:
# the network around it, what scenarios are written with, and the scenarios.
#
#   boot_options='ipv6.disable=1'   what the kernel is told besides, at the next boot
#   on_disk COMMAND...              COMMAND with the disk of the machine, which is off, at $root

slower=10
key=$scratch/key-of-root
boot_options=
qemu=

make_place() {
    mount --make-rprivate /
    ip link set lo up
    mount -t tmpfs -o mode=755 tmpfs /run
    mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
    mkdir -p "$root" "$scratch"
    # It is too large for memory.
    disk=$layer/machine/disk.$scenario
    cp --sparse=always "$layer/machine/disk" "$disk"
    mount -o loop "$disk" "$root"
    architecture=$(dpkg-query --root="$root" --show --showformat '${Architecture}' dpkg)
    ssh-keygen -q -t ed25519 -N '' -f "$key"
    install -d -m 700 "$root/root/.ssh"
    cp "$key.pub" "$root/root/.ssh/authorized_keys"
    local unit
    for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer man-db.timer \
        e2scrub_reap.service; do
        ln -sf /dev/null "$root/etc/systemd/system/$unit"
    done
}

# As an administrator would, but for the download.
install_on_machines() {
    case $architecture in
        arm64) cp "$program"/../arm64/*.deb "$root/srv/" ;;
        *) cp "$program"/*.deb "$root/srv/" ;;
    esac
}

on_disk() {
    mount -o loop "$disk" "$root"
    "$@"
    umount "$root"
}

# Starts the machine. One whose kernel panics ends.
start_machine() {
    local machine='qemu-system-x86_64 -cpu max,la57=off' console=ttyS0
    [ "$architecture" != arm64 ] || machine='qemu-system-aarch64 -machine virt -cpu cortex-a72' console=ttyAMA0
    : >"$scratch/console"
    # shellcheck disable=SC2086 # lists of words
    $machine -accel tcg,thread=multi -m "${memory:-2048}" -smp 2 -display none -monitor none -no-reboot \
        -kernel "$layer/machine/kernel" -initrd "$layer/machine/initrd" \
        -append "root=/dev/vda rw console=$console quiet panic=-1 systemd.show_status=0 net.ifnames=0 mitigations=off random.trust_cpu=1 $boot_options" \
        -drive "file=$disk,format=raw,if=virtio,cache=unsafe" -serial "file:$scratch/console" \
        -netdev tap,id=uplink,ifname=uplink,script=no,downscript=no \
        -device virtio-net-pci,netdev=uplink,mac=02:00:5e:00:53:02,romfile= -device virtio-rng-pci \
        </dev/null >"$scratch/qemu" 2>&1 &
    qemu=$!
    leader=$qemu
}

# Boots what is on the disk; the first time, the package is installed.
boot() {
    local begin=$EPOCHREALTIME
    ! mountpoint -q "$root" || umount "$root"
    [ -e /sys/class/net/uplink ] || ip tuntap add uplink mode tap
    ip link set uplink master lan up
    start_machine
    wait_for 90 'the machine to answer' answers_or_is_down || true
    # Emulated, a kernel now and then panics in its first seconds.
    if is_down && grep 'Kernel panic' "$scratch/console"; then
        start_machine
        wait_for 90 'the machine to answer' answers_or_is_down || true
    fi
    if is_down || ! limit=60 enter true; then
        leader=
        fail_now 'the machine does not boot' "$(tail -n 40 "$scratch/qemu" "$scratch/console")"
    fi
    wait_for 90 'the end of booting' is_booted || fail_now 'the machine does not boot' "$(enter systemctl list-jobs)"
    printf 'booted in %s ms: Linux %s; failed units:\n' "$(((${EPOCHREALTIME/./} - ${begin/./}) / 1000))" "$(in_system 'uname -r')"
    in_system 'systemctl --failed --no-legend --plain'
    ! in_system 'test -e /srv/*.deb' || install_package
}

install_package() {
    ok 'the package is installed' in_system 'dpkg -i /srv/*.deb && rm /srv/*.deb' || fail_now 'the package cannot be installed'
}

answers_or_is_down() {
    is_down || limit=60 enter true
}

is_down() {
    ! kill -0 "$qemu" 2>/dev/null
}

# By one connection, which all commands share: under emulation a new one takes seconds.
enter() {
    local command
    printf -v command '%q ' "$@"
    timeout "${limit:-300}" ssh -q -i "$key" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o ConnectTimeout=20 \
        -o ControlMaster=auto -o ControlPath="$scratch/ssh" -o ControlPersist=yes "root@$address" "LANG=C.UTF-8 $command"
}

# The shell of an administrator's session: what it starts in the background stays.
in_system() {
    enter sh -c "$1"
}

power_off() {
    in_system 'systemctl poweroff' || true
    wait_for 30 'the machine to shut down' is_down || fail_now 'the machine does not shut down'
}

destroy() {
    rm -f "$disk"
}

# A WireGuard server in the internet, which the client's file in the system, /etc/wireguard/wg0.conf, leads to: it gives
# 10.9.0.2, and has a web server behind it at 10.9.0.1.
start_wireguard() {
    local keys=$scratch/wireguard
    mkdir -p "$keys"
    wg genkey >"$keys/server"
    wg genkey >"$keys/client"
    WG_PROCESS_FOREGROUND=1 internet wireguard-go wgserver >"$scratch/wireguard.log" 2>&1 &
    wait_for 5 'the WireGuard server' ip link show wgserver
    wg set wgserver listen-port 51820 private-key "$keys/server" peer "$(wg pubkey <"$keys/client")" allowed-ips 10.9.0.2/32,fd09::2/128
    ip address add 10.9.0.1/24 dev wgserver
    ip -6 address add fd09::1/64 dev wgserver nodad
    ip link set wgserver up
    internet python3 "$here/internet.py" wireguard 10.9.0.1 80 &
    install -d -m 700 "$root/etc/wireguard"
    cat >"$root/etc/wireguard/wg0.conf" <<END
[Interface]
PrivateKey = $(cat "$keys/client")
Address = 10.9.0.2/24, fd09::2/64
[Peer]
PublicKey = $(wg pubkey <"$keys/server")
Endpoint = $gateway:51820
AllowedIPs = 0.0.0.0/0, ::/0
END
    wait_for 5 'the web server behind WireGuard' internet curl -s http://10.9.0.1/
}

# A section of the configuration with a tunnel, NAME, and the lines of it.
section() {
    printf '[%s]\n' "$1"
    printf '%s\n' "${@:2}"
}

configure() {
    section "$@" | in_system 'cat >/etc/runns.conf'
}

# alice's traffic from namespace $1 arrives at its destination from an address that begins with $2.
leaves_from() {
    says "$1: traffic leaves from $2" "internet $2" as_user alice "runns-exec $1 -- curl -sS -m 20 http://$web/"
}
