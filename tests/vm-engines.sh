#!/bin/bash
# vm-engines.sh FOLDER [TEST...] : inside the VM of vm.sh with VM_SYSTEMD=1 and the packages podman, conmon, containerd and busybox-static: containers
# of Podman and containerd whose groups systemd makes, with berth-runtime. FOLDER has berth-runtime and the test programs podman and containerd
# (agent/oci/tests); without TEST the lives and limits of both, since an emulated processor takes its time.
set -u
from=$1; shift
mkdir -p /run/engines/run; mount -t tmpfs -o size=70% engines /run/engines/run
export BERTH_TEST_CGROUPS=systemd BERTH_TEST_INSTALLED=1 BERTH_TEST_BINARIES=$from BERTH_TEST_DIR=/run/engines RUST_BACKTRACE=0
modprobe -q overlay
failed=()
for test in ${*:-podman::limits_are_the_groups containerd::limits_and_what_is_used podman::a_life_from_run_to_rm containerd::a_life_from_run_to_delete}; do
  begun=$SECONDS
  if timeout -k 5 600 "$from/${test%%::*}" --exact "${test#*::}" --nocapture </dev/null >/run/engines/log 2>&1; then
    echo "ok: $test ($((SECONDS - begun)) s)"
  else
    echo "FAILED: $test ($((SECONDS - begun)) s)"; failed+=("$test"); tail -60 /run/engines/log
  fi
done
left=$(systemctl list-units --all --plain --no-legend 'berth*' 'libpod*')
[ -z "$left" ] || { echo "left: $left"; failed+=(units); }
[ ${#failed[@]} = 0 ] || { printf 'failed: %s\n' "${failed[@]}"; exit 1; }
