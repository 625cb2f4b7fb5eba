#!/bin/bash
# vm-e2e.sh FOLDER [FILTER...] : inside the VM of vm.sh: the end-to-end tests whose names begin as a FILTER says (`resources:: run::logs`; `all`),
# and with the FILTER `oci` those of berth-runtime, by hand and under the machine's Podman and containerd, on cgroup v2 alone. FOLDER has the
# programs, and in deps/ the tests (target/debug).
# BERTH_TEST_BINARIES=FOLDER2: with these programs instead, a package's for example. One test at a time, since the VM has one processor, and each
# in a process of its own, which may take BERTH_TEST_SECONDS. What fails is shown when it fails, and named again at the end.
# What an older kernel or an emulated processor cannot do is left out by name, with the reason.
set -u
cd "$(dirname "$0")/.."
. tests/fixtures/env.sh
bin=$1; shift
kernel=$(uname -r); kernel=${kernel%%-*}
newest() { find "$bin/deps" -maxdepth 1 -type f -perm -u+x -name "$1-*" ! -name '*.*' -printf '%T@ %p\n' | sort -n | tail -1 | cut -d' ' -f2; }
export RUST_BACKTRACE=0 BERTH_TEST_IMAGES_READY=1 BERTH_TEST_ATTACK_SECS=90 BERTH_TEST_TRIAL_SECS=20
# What an emulated processor comes to between two kills.
export BERTH_CAMPAIGN_OPS=${BERTH_CAMPAIGN_OPS:-16} BERTH_CAMPAIGN_KILL_MS=${BERTH_CAMPAIGN_KILL_MS:-3000}

declare -A why
skip() { # TEST WHY
  why[$1]=$2
}

skip userns::a_crowd_shares_nothing "50 handshakes at once take an emulated processor longer than the agent lets them"

skip health::what_becomes_of_the_unhealthy "a container is unhealthy, and stopped, before an emulated processor has run its first line"

case $kernel in 6.1.*)
  for test in volume_options::tmpfs_by_option volume_options::a_tmpfs_has_the_owner_and_mode_that_it_was_given \
      binds::read_only_reaches_as_far_below_as_it_is_told volume_faults::making_and_removing; do
    skip $test "tmpfs has mounts with mapped owners since Linux 6.3"
  done
  skip powercut::a_damaged_layer_is_found_and_fetched_again_alone "layers are folders here, whose bytes nothing vouches for (EROFS from files: Linux 6.12)"
  skip landlock::abstract_sockets_and_processes_of_the_host_are_out_of_reach "Landlock has scopes since Linux 6.12"
  for test in layers::odd_layers changes::diff changes::commit hostile::hostile_layers; do
    skip ${test}_in_the_erofs_store "EROFS is mounted from files since Linux 6.12"
  done ;;
esac

# A disk, because neither tmpfs nor the overlay that is this VM's root can be what layers and their owners' maps need.
truncate -s 6G /vm-disk; mkfs.ext4 -q -O project,quota /vm-disk 2>/dev/null || mkfs.ext4 -q /vm-disk
for m in loop overlay tun dummy vxlan ipvlan macvlan xt_MASQUERADE nft_reject_inet nft_limit nft_numgen nft_redir ip6table_nat sctp; do modprobe -q $m; done
# discard: the file lies in memory, which what is deleted must give back.
mount -o loop,discard /vm-disk "$BERTH_TEST_DIR/run"
export TMPDIR=$BERTH_TEST_DIR/run/tmp; mkdir -p "$TMPDIR"
tests/fixtures/registry.sh start || exit 1

passed=0 failed=() left_out=0
run() { # BINARY FILTER...
  local binary=$1 name names begun filter log=/tmp/vm-e2e.log; shift
  [ -x "$binary" ] || { echo "vm-e2e.sh: no test program ${binary:-e2e}"; failed+=("${binary:-e2e}"); return; }
  names=$("$binary" --list --format terse 2>/dev/null | sed -n 's/: test$//p')
  for filter in "${@:-all}"; do
    for name in $names; do
      [ "$filter" = all ] || case $name in "$filter"*) ;; *) continue ;; esac
      if [ -n "${why[$name]:-}" ]; then
        echo "left out on $kernel: $name: ${why[$name]}"; left_out=$((left_out + 1)); continue
      fi
      begun=$SECONDS
      if timeout -k 5 "${BERTH_TEST_SECONDS:-900}" "$binary" --exact "$name" --nocapture </dev/null >$log 2>&1; then
        echo "ok: $name ($((SECONDS - begun)) s)"; passed=$((passed + 1)); grep -aE '^(skipped|left out)' $log
      else
        echo "FAILED ($?): $name ($((SECONDS - begun)) s)"; failed+=("$name"); tail -120 $log
      fi
    done
  done
}
filters=()
for filter in "$@"; do
  if [ "$filter" = oci ]; then
    for name in lifecycle walls attacks specification podman containerd; do
      binary=$(newest "$name")
      run "${binary:-$bin/deps/$name}"
    done
  else filters+=("$filter"); fi
done
if [ ${#filters[@]} != 0 ]; then
  binary=$(newest e2e)
  for name in "${!why[@]}"; do
    "$binary" --list --format terse --exact "$name" 2>/dev/null | grep -q . || { echo "vm-e2e.sh: $name, which is left out, is no test"; exit 1; }
  done
  run "$binary" "${filters[@]}"
fi
tests/fixtures/registry.sh stop
echo "on $kernel: $((passed + ${#failed[@]})) tests run, $passed passed, ${#failed[@]} failed, $left_out left out"
[ ${#failed[@]} = 0 ] || { printf 'failed: %s\n' "${failed[@]}"; exit 1; }
