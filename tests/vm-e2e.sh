#!/bin/bash
# vm-e2e.sh FOLDER [FILTER...] : inside the VM of vm.sh: the end-to-end tests whose names begin as a FILTER says (`resources:: run::logs`), and
# with the FILTER `oci` those of berth-runtime, on cgroup v2 alone. FOLDER has the programs, and in deps/ the tests (target/debug).
# BERTH_TEST_BINARIES=FOLDER2: with these programs instead, a package's for example. One test at a time: the VM has one processor.
# What an older kernel lacks is left out by name, with the reason.
set -u
cd "$(dirname "$0")/.."
. tests/fixtures/env.sh
bin=$1; shift
kernel=$(uname -r); kernel=${kernel%%-*}
newest() { find "$bin/deps" -maxdepth 1 -type f -perm -u+x -name "$1-*" ! -name '*.*' -printf '%T@ %p\n' | sort -n | tail -1 | cut -d' ' -f2; }
export RUST_BACKTRACE=0 BERTH_TEST_IMAGES_READY=1 BERTH_TEST_ATTACK_SECS=90

skipped=()
skip() { # TEST WHY
  echo "left out on $kernel: $1: $2"; skipped+=(--skip "$1")
}

skip userns::a_crowd_shares_nothing "50 handshakes at once take an emulated processor longer than the agent lets them"

skip health::what_becomes_of_the_unhealthy "a container is unhealthy, and stopped, before an emulated processor has run its first line"

case $kernel in 6.1.*) skip landlock::abstract_sockets_and_processes_of_the_host_are_out_of_reach "Landlock has scopes since Linux 6.12" ;; esac

# A disk, because neither tmpfs nor the overlay that is this VM's root can be what layers and their owners' maps need.
truncate -s 6G /vm-disk; mkfs.ext4 -q -O project,quota /vm-disk 2>/dev/null || mkfs.ext4 -q /vm-disk
for m in loop overlay tun dummy vxlan ipvlan macvlan xt_MASQUERADE nft_reject_inet nft_limit nft_numgen nft_redir ip6table_nat; do modprobe -q $m; done
mount -o loop /vm-disk "$BERTH_TEST_DIR/run"
export TMPDIR=$BERTH_TEST_DIR/run/tmp; mkdir -p "$TMPDIR"
tests/fixtures/registry.sh start || exit 1

status=0
run() { # BINARY FILTER...
  local binary=$1; shift
  [ -x "$binary" ] || { echo "vm-e2e.sh: no test program for: $*"; status=1; return; }
  "$binary" --test-threads 1 "${skipped[@]}" "$@" || status=1
}
filters=()
for filter in "$@"; do
  if [ "$filter" = oci ]; then
    for name in lifecycle walls specification; do
      binary=$(newest "$name")
      [ -z "$binary" ] || run "$binary"
    done
  else filters+=("$filter"); fi
done
[ ${#filters[@]} = 0 ] || run "$(newest e2e)" "${filters[@]}"
tests/fixtures/registry.sh stop
exit $status
