# shellcheck shell=bash disable=SC2034,SC2317
# Runs one scenario: scenario.sh SOURCE DIRECTORY_OF_SYSTEMS LAYER RELEASE FILE KIND
# Called in mount, net, pid, cgroup, ipc and uts namespaces of its own. The network namespace plays the internet.
set -euo pipefail
umask 022
source=$1
program=$2/program
base=$2/$4
layer=$3
release=$4
file=$5
scenario=$(basename "$file" .sh)
kind=$6
here=$source/tests/systems

# shellcheck source=tests/systems/library.sh
. "$here/library.sh"
# shellcheck disable=SC1090 # that of machines replaces how a system boots and is reached
[ "$kind" = systems ] || . "$source/tests/$kind/library.sh"

packages=
# Packages of every system, whose versions matter too.
systems_own='systemd iptables nftables openvpn iproute2 polkitd ifupdown'
# What a scenario changes in the installed system before it boots for the first time; $root is where it is.
prepare() { :; }
# How the program gets into it.
install_program() { install_on_"$kind"; }
install_on_systems() { DESTDIR=$root "$program/install/install.sh"; }
scenario() { fail_now "$scenario.sh has no function scenario"; }
# shellcheck disable=SC1090 # one of scenarios/*.sh
. "$file"

# What ends a scenario early is a failure that says so.
end() {
    destroy
    [ -n "$finished" ] || { fail 'the scenario breaks off: see the end of the log' && exit 1; }
}
trap end EXIT
make_place
make_internet
configure_system
prepare
install_program
boot
# shellcheck disable=SC2086 # a list of words
in_system "dpkg-query -W -f 'version: \${Package} \${Version}\n' $systems_own $packages"
in_system '! getent group runns >/dev/null || usermod -aG runns alice'
set +e
scenario
finish
