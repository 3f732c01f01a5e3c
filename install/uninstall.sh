#!/bin/sh
# Removes what install.sh installed, and nothing else: the group, and a configuration that has been edited, are kept.
# PREFIX and DESTDIR must be the same as for install.sh.
set -eu

prefix=${PREFIX:-/usr/local}
destdir=${DESTDIR:-}

if [ "$(id -u)" != 0 ]; then
    printf 'uninstall.sh: cannot uninstall: must be run as root\nhint: sudo %s\n' "$0" >&2
    exit 1
fi

remove() {
    if [ -e "$destdir$1" ] || [ -L "$destdir$1" ]; then
        rm -f -- "$destdir$1"
        printf 'removed %s\n' "$destdir$1"
    fi
}

if [ -z "$destdir" ]; then
    for record in /run/runns/*.json; do
        [ -e "$record" ] || continue
        name=${record##*/}
        printf 'note: namespace %s still exists; to remove it, install runns-exec again and run: sudo runns-exec clean %s\n' \
            "${name%.json}" "${name%.json}"
    done
    for link in /etc/systemd/system/*.wants/runns@*.service; do
        [ -L "$link" ] || continue
        printf 'note: %s is still enabled; to disable it: sudo systemctl disable %s\n' "${link##*/}" "${link##*/}"
    done
    for rules in /etc/polkit-1/rules.d/*.rules; do
        if grep -q runns "$rules" 2>/dev/null; then
            printf 'note: %s is for units of runns-exec, which has been removed; to remove it: sudo rm %s\n' "$rules" "$rules"
        fi
    done
fi

sample=$destdir$prefix/share/doc/runns-exec/runns.conf
if [ -f "$sample" ] && cmp -s "$sample" "$destdir/etc/runns.conf"; then
    remove /etc/runns.conf
elif [ -e "$destdir/etc/runns.conf" ]; then
    printf 'kept %s: it has been edited, or was there before\n' "$destdir/etc/runns.conf"
fi
remove "$prefix/share/doc/runns-exec/runns.conf"
rmdir -- "$destdir/etc/runns.conf.d" 2>/dev/null || true
for directory in /etc/runns.conf.d /etc/runns; do
    if [ -d "$destdir$directory" ]; then
        printf 'kept %s: it contains files of the administrator\n' "$destdir$directory"
    fi
done
DESTDIR=$destdir sh "$(dirname -- "$0")/apparmor.sh" remove
# shellcheck disable=SC2034 # the mode is the installer's
while read -r from to mode; do
    case $from in
        '' | '#'*) continue ;;
    esac
    case $to in
        /*) remove "$to" ;;
        *) remove "$prefix/$to" ;;
    esac
done <"$(dirname -- "$0")/files"
remove "$prefix/bin/runns-exec"
remove "$prefix/libexec/runns-exec/runns-exec-root"
for directory in "$prefix/share/doc/runns-exec/examples" "$prefix/share/doc/runns-exec" "$prefix/libexec/runns-exec" \
    "$prefix/share/runns-exec" /usr/lib/firewalld/zones /usr/lib/firewalld /usr/share/polkit-1/rules.d /usr/share/polkit-1; do
    rmdir -- "$destdir$directory" 2>/dev/null || true
done
if [ -z "$destdir" ] && [ -d /run/systemd/system ]; then
    systemctl daemon-reload || true
fi
printf 'kept group runns (to remove it: groupdel runns)\n'
