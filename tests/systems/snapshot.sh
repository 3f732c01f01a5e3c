# shellcheck shell=sh
# Prints the state of a booted system that build has no business with, beside tests/support/snapshot.sh.
section() { printf '\n== %s\n' "$1"; }
section units
systemctl list-units --all --plain --no-legend --full |
    awk '$1 !~ /^(run-|session-|user@|user-|systemd-tmpfiles|apt-|.*\.device|run-user)/ { print $1, $2, $3, $4 }' | sort
section 'unit files'
systemctl list-unit-files --no-legend | sort
section 'nft, whole'
nft -s list ruleset | sed -E 's/(packets|bytes) [0-9]+/\1/g'
section 'files'
find /etc /usr/local /var/lib /run/NetworkManager /run/systemd/network /run/systemd/resolve \
    -xdev \( -path /var/lib/systemd -o -path /var/lib/docker -o -path /var/lib/containerd -o -path /var/lib/NetworkManager \
    -o -name '*.lease*' -o -path /run/NetworkManager/devices \) -prune -o -printf '%M %u:%g %p %l\n' 2>/dev/null | sort
find /etc -xdev -type f -exec sha256sum {} + | sort -k 2
