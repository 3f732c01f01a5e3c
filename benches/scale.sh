#!/bin/bash
# Measures what namespaces cost each other and the host: benches/scale.sh [NUMBER]...   (default: 1 300 1000)
#
# For each number of namespaces, side by side in one run: throughput and round trip from inside to a server behind the
# host, connections a second, building and cleaning one more, entering, list, status, and the memory of an idle namespace.
# Run as root. Everything runs in namespaces of its own; the machine is not changed. Needs iperf3 and python3.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

if [ "${1:-}" != --inside ]; then
    [ "$(id -u)" = 0 ] || { echo "scale.sh: cannot create a sandbox: must be run as root" >&2; exit 1; }
    command -v iperf3 >/dev/null || { echo "scale.sh: cannot measure throughput: iperf3 is missing" >&2; exit 1; }
    [ $# -gt 0 ] || set -- 1 300 1000
    ENTRY=${ENTRY:-$("$here/../install/build.sh")/runns-exec}
    export ENTRY
    exec unshare -nmpif --mount-proc --kill-child --propagation private "$here/scale.sh" --inside "$@"
fi
shift
# shellcheck source=benches/sandbox.sh
. "$here/sandbox.sh"

web_port=8080

# What is measured is the way to these servers.
serve_web() {
    out iperf3 -s -B $server >/dev/null &
    out python3 - <<END &
import socket
server = socket.create_server(("$server", $web_port), backlog=4096)
while True: server.accept()[0].close()
END
    until out ss -Hltn | grep -q ":$web_port"; do sleep 0.05; done
}

# Milliseconds that a command takes, as the median of $1 runs.
milliseconds() {
    local runs=$1 i begin
    shift
    for ((i = 0; i < runs; i++)); do
        begin=$EPOCHREALTIME
        "$@" >/dev/null
        echo $((${EPOCHREALTIME/./} - ${begin/./}))
    done | median | awk '{ printf "%.2f", $1 / 1000 }'
}

gigabits() {
    runns-exec n1 -- iperf3 -c $server -t 2 -J | python3 -c 'import json, sys; print("%.1f" % (json.load(sys.stdin)["end"]["sum_received"]["bits_per_second"] / 1e9))'
}

microseconds() {
    runns-exec n1 -- ping -q -c 300 -i 0.002 $server | sed -n 's|^rtt.* = [^/]*/\([^/]*\)/.*|\1|p' | awk '{ printf "%.0f\n", $1 * 1000 }'
}

connections() {
    runns-exec n1 -- python3 - <<END
import socket, time
count, end = 0, time.monotonic() + 2
while time.monotonic() < end:
    socket.create_connection(("$server", $web_port)).recv(1)
    count += 1
print(count // 2)
END
}

build_one() { runns-exec build -n extra; }
clean_one() { runns-exec clean extra; }
build_and_clean() {
    local i begin middle
    for ((i = 0; i < 11; i++)); do
        begin=$EPOCHREALTIME
        build_one >/dev/null
        middle=$EPOCHREALTIME
        clean_one >/dev/null
        echo $((${middle/./} - ${begin/./})) $((${EPOCHREALTIME/./} - ${middle/./}))
    done >/run/times
    cut -d' ' -f1 /run/times | median | awk '{ printf "%.1f ", $1 / 1000 }'
    cut -d' ' -f2 /run/times | median | awk '{ printf "%.1f", $1 / 1000 }'
}

available() { awk '/^MemAvailable/ { print $2 }' /proc/meminfo; }

# Listing among many processes: 30 000, of which 10 000 are in a namespace.
crowd() {
    cat >/run/crowd.c <<'END'
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
int main(int argc, char **argv)
{
    for (int left = argc > 1 ? atoi(argv[1]) : 0; left > 0; left--)
        if (fork() == 0) { pause(); _exit(0); }
    puts("ready");
    fflush(stdout);
    pause();
}
END
    gcc -O2 -static -o /run/bin/crowd /run/crowd.c
    local place
    for place in "20000 /run/outside" "10000 /run/inside runns-exec n1 --"; do
        read -r -a words <<<"$place"
        "${words[@]:2}" /run/bin/crowd "${words[0]}" >"${words[1]}" &
        until grep -q ready "${words[1]}"; do sleep 0.1; done
    done
    printf '\n%-34s %12s %12s\n' 'of 30 000 processes, 10 000 inside' 'list -a, ms' 'lsns, ms'
    printf '%-34s %12s %12s\n' '' "$(milliseconds 5 runns-exec list -a)" "$(milliseconds 3 lsns -t net)"
    pkill -KILL crowd || true
    while pgrep crowd >/dev/null; do sleep 0.1; done
}

row() { printf '%-34s' "$1"; shift; printf ' %12s' "$@"; echo; }

measure() {
    local times
    throughput+=("$(for _ in 1 2 3; do gigabits; done | median)")
    roundtrip+=("$(for _ in 1 2 3; do microseconds; done | median)")
    connects+=("$(for _ in 1 2 3; do connections; done | median)")
    read -r -a times <<<"$(build_and_clean)"
    builds+=("${times[0]}")
    cleans+=("${times[1]}")
    enters+=("$(milliseconds 51 runns-exec n1 -- /bin/true)")
    lists+=("$(milliseconds 11 runns-exec list -a)")
    statuses+=("$(milliseconds 5 runns-exec status || true)")
    rules+=("$({ iptables-save; ip6tables-save; ip rule; ip -6 rule; nft -s -t list table inet runns; } 2>/dev/null | grep -vc '^[#*:C]')")
}

sandbox
serve_web
count=0
throughput=() roundtrip=() connects=() builds=() cleans=() enters=() lists=() statuses=() rules=() memory=() totals=()
runns-exec build -n warm >/dev/null
runns-exec clean warm >/dev/null
for wanted; do
    free=$(available)
    begin=$EPOCHREALTIME before=$count
    # The builds take turns by a lock; eight at once keep it busy.
    seq $((count + 1)) "$wanted" | xargs -P 8 -I{} runns-exec build -n n{} >/dev/null
    count=$wanted
    totals+=("$(awk "BEGIN { printf \"%.1f\", (${EPOCHREALTIME} - $begin) }")")
    memory+=("$(((free - $(available)) / (count - before)))")
    measure
done
listed=$(crowd)
begin=$EPOCHREALTIME
seq 1 "$count" | xargs -P 8 -I{} runns-exec clean n{} >/dev/null
cleaned=$(awk "BEGIN { printf \"%.1f\", (${EPOCHREALTIME} - $begin) }")

row 'namespaces' "$@"
row 'throughput inside, Gbit/s' "${throughput[@]}"
row 'round trip, us' "${roundtrip[@]}"
row 'connections a second' "${connects[@]}"
row 'build one more, ms' "${builds[@]}"
row 'clean it, ms' "${cleans[@]}"
row 'enter, ms' "${enters[@]}"
row 'list -a, ms' "${lists[@]}"
row 'status, ms' "${statuses[@]}"
row 'rules of the host' "${rules[@]}"
row 'memory of an idle one, KiB' "${memory[@]}"
row 'building up to here, 8 at once, s' "${totals[@]}"
printf '%-34s %12s\n' 'cleaning all, 8 at once, s' "$cleaned"
printf '%s\n\n' "$listed"
left=$(find /run/netns /run/runns -mindepth 1 2>/dev/null | wc -l || true)
printf 'left: %s files, %s links, %s rules\n' "$left" "$(ip -br link | wc -l)" "$(iptables-save | grep -c '^-A' || true)"
