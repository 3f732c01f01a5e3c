#!/bin/sh
# What the distributions' AppArmor profiles of openvpn and wg do not allow, and tunnels need: apparmor.sh add | remove
# Each rule is a line in /etc/apparmor.d/local that ends with our mark. Without the profile there is none.
# DESTDIR is that of install.sh.
set -eu
umask 022

profiles=${DESTDIR:-}/etc/apparmor.d
mark='# runns-exec'

rule() {
    case $1 in
        # The management socket, and temporary files.
        openvpn) echo 'file rw /run/runns/*.d/private/*/own/{,**},' ;;
        # The socket of a userspace implementation, which its own user owns; keys come by a pipe.
        wg) echo 'capability dac_override, file rw /run/wireguard/{,*.sock},' ;;
    esac
}

remove() {
    [ -f "$1" ] && grep -q "$mark\$" "$1" || return 0
    sed -i --follow-symlinks "/$mark\$/d" "$1"
    # The administrator may have put a link there.
    [ -s "$1" ] || [ -h "$1" ] || rm -f "$1"
}

# The kernel has the profile as it was when it was loaded, and so has the cache: it is not noticed there that a file is gone.
load() {
    [ -z "${DESTDIR:-}" ] && [ -d /sys/kernel/security/apparmor ] && command -v apparmor_parser >/dev/null || return 0
    apparmor_parser -r -T -W "$1" || printf 'runns-exec: cannot load the AppArmor profile %s\n' "$1" >&2
}

for name in openvpn wg; do
    [ -f "$profiles/$name" ] || continue
    file=$profiles/local/$name
    case ${1:-} in
        add)
            ! grep -q -F -x "$(rule $name) $mark" "$file" 2>/dev/null || continue
            remove "$file"
            mkdir -p "$profiles/local"
            # A line that was not ended would become a part of ours.
            [ -z "$(tail -c 1 "$file" 2>/dev/null)" ] || echo >>"$file"
            printf '%s %s\n' "$(rule $name)" "$mark" >>"$file"
            ;;
        remove)
            grep -q "$mark\$" "$file" 2>/dev/null || continue
            remove "$file"
            ;;
        *)
            echo 'usage: apparmor.sh add | remove' >&2
            exit 2
            ;;
    esac
    load "$profiles/$name"
done
