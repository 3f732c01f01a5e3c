#!/bin/bash
# Boots real Debian systems in containers and tries runns-exec on them.
#
#   sudo tests/systems/run.sh [debian12|debian13]... [SCENARIO]...
#
# Without a release: on both. Without a scenario: all of them. The systems are kept in target/systems, the log of each
# scenario in target/systems/logs. The network, the users and the files of this machine stay as they are.
#
#   RUNNS_SYSTEMS_JOBS     how many scenarios to run at a time (default: 2)
#   RUNNS_SYSTEMS_MIRROR   a mirror of Debian; without it, the one that this machine's apt uses
set -euo pipefail
umask 022
exec </dev/null
here=$(cd "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
source=$(cd "$here/../.." && pwd)
export PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
kind=systems
cache=${CARGO_TARGET_DIR:-$source/target}/systems
logs=$cache/logs
jobs=${RUNNS_SYSTEMS_JOBS:-2}
releases_known=(debian12 debian13)

# shellcheck source=tests/systems/making.sh
. "$here/making.sh"

choose "$@"
[ ${#releases[@]} -gt 0 ] || releases=("${releases_known[@]}")
[ ${#scenarios[@]} -gt 0 ] || all_scenarios
run_all
