#!/bin/bash
# vm-test.sh : tries the binaries on kernels with nothing but cgroup v2, in a VM: vm-smoke.sh. VM_KERNEL="6.1 6.12" BERTH_BIN=target/debug,
# which need the fail points for the upgrades.
# Then the Debian package under systemd: vm-systemd.sh (which systemd.sh tries without a VM).
# VM_TESTS="smoke:: network:: oci": those tests of tests/e2e (`all`: every one, an hour and a half), too, and with oci those of berth-runtime: vm-e2e.sh.
set -eu
cd "$(dirname "$0")/.."
. tests/fixtures/env.sh
tests/fixtures/setup.sh; tests/fixtures/setup.sh --vm
tests/fixtures/registry.sh start; tests/fixtures/images.sh busybox; tests/fixtures/registry.sh stop
# An emulated processor spends two thirds less of its time in programs that are optimised a little.
export CARGO_PROFILE_DEV_OPT_LEVEL=1 CARGO_PROFILE_DEV_DEBUG=none
[ -n "${BERTH_BIN:-}" ] || { cargo build --quiet -p berth -p berth-oci --bins --features berth/failpoints; BERTH_BIN=$PWD/target/debug; }
export BERTH_TEST_IMAGES_READY=1 CARGO_MANIFEST_DIR=$PWD
# One processor: with more, the emulation of Debian 12's qemu makes kernel 6.12 panic now and then.
export VM_CPUS=${VM_CPUS:-1}
share=$BERTH_TEST_DIR/vm/share/systemd

# The package on a fresh Debian of the kernel's release, with the images of the registry beside it; then with groups that systemd makes.
systemd() {
  PACKAGE_SEEN=/vmshare/systemd tests/fixtures/package.sh "$BERTH_BIN" "$share"
  for script in vm-systemd.sh vm-scopes.sh; do
    VM_SYSTEMD=1 VM_KERNEL=$kernel tests/vm.sh "/vmshare/systemd/$script" /vmshare/systemd
  done
}

# berth-runtime under Podman and containerd, with scopes of systemd's.
engines() {
  local to=$BERTH_TEST_DIR/vm/share/engines
  mkdir -p "$to"
  for test in podman containerd; do
    cp "$(find target/debug/deps -maxdepth 1 -type f -perm -u+x -name "$test-*" ! -name '*.*' -printf '%T@ %p\n' | sort -n | tail -1 | cut -d' ' -f2)" "$to/$test"
  done
  cp "$BERTH_BIN/berth-runtime" tests/vm-engines.sh "$to/"
  VM_SYSTEMD=1 VM_PACKAGES=podman,conmon,containerd,busybox-static VM_KERNEL=$kernel tests/vm.sh /vmshare/engines/vm-engines.sh /vmshare/engines
}

for kernel in ${VM_KERNEL:-6.1 6.12}; do
  echo "=== kernel $kernel"
  # EROFS from files is of Linux 6.12.
  case $kernel in 6.1) layers=directory ;; *) layers=erofs ;; esac
  BERTH_VM_LAYERS=$layers VM_KERNEL=$kernel tests/vm.sh tests/vm-smoke.sh "$BERTH_BIN"
  systemd
  if [ -n "${VM_TESTS:-}" ]; then
    tests/fixtures/setup.sh --shares
    cargo test --quiet --no-run --workspace --features berth/failpoints --tests
    # shellcheck disable=SC2086
    VM_KERNEL=$kernel VM_SECONDS=${VM_SECONDS:-14400} tests/vm.sh tests/vm-e2e.sh target/debug $VM_TESTS
    case " $VM_TESTS " in *" oci "*) engines ;; esac
  fi
done
