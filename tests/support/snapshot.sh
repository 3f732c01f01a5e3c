# Prints the state of a host that build may change, without what changes by itself (counters, dates, ids).
section() { printf '\n== %s\n' "$1"; }
# Querying iptables leaves empty tables and built-in chains behind, which have no effect.
rules() { "$1" 2>/dev/null | sed -e '/^#/d' -e 's/\[[0-9]*:[0-9]*\]//' | grep -Ev '^(\*|COMMIT|:[A-Z]+ ACCEPT)'; }
section links; ip -o -d link show | sed -E 's/ (qlen|gso_|gro_|tso_)[^ ]* [0-9]+//g'
section addresses; ip -o address show
section routes; ip -4 route show table all; ip -6 route show table all
section rules; ip -4 rule show; ip -6 rule show
for tool in iptables-nft-save ip6tables-nft-save iptables-legacy-save ip6tables-legacy-save; do
    section "$tool"; rules "$tool"
done
section nft; nft -s list ruleset 2>/dev/null | sed -E '/^#/d' | awk '
    # Only rules, each with its chain, and chains with a policy other than accept. Packets add elements to some sets.
    /^\t(set|map)/ { dynamic = 0 } /flags.*dynamic/ { dynamic = 1 } /elements =/ && dynamic { hidden = 1 }
    hidden { if (/}/) hidden = 0; next }
    /^table/ { table = $2 " " $3; chain = "" } /^\tchain/ { chain = $2 }
    /^\t\t/ && !/policy accept;$/ { print table, chain, $0 }' | sort -s -k 1,2 # A table that is loaded again comes last.
section sysctls
grep -rsH . /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/conf /proc/sys/net/ipv6/conf | grep -v stable_secret | sort
section mounts; sed -E 's/^[0-9]+ [0-9]+ [0-9]+:[0-9]+ //; s/(shared|master|propagate_from):[0-9]+/\1/g' /proc/1/mountinfo
section files
find /run/netns /etc/netns /run/runns /etc/runns.conf /etc/runns.conf.d /etc/runns /etc/resolv.conf -printf '%M %u:%g %p %l\n' 2>/dev/null | sort
find /etc/netns /etc/resolv.conf -type f -exec sha256sum {} + 2>/dev/null | sort
section daemons; pgrep -a 'openvpn|runns-exec' | cut -d' ' -f2- | sort
exit 0
