#!/bin/bash
# vm-test.sh : a smoke run on kernels with nothing but cgroup v2: the smoke tests of tests/e2e, in a VM.
set -eu
cd "$(dirname "$0")/.."
. tests/fixtures/env.sh
tests/fixtures/setup.sh; tests/fixtures/setup.sh --vm
tests/fixtures/registry.sh start; tests/fixtures/images.sh busybox; tests/fixtures/registry.sh stop
cargo test --quiet --no-run --features failpoints --test e2e
binary=$(cargo test --no-run --features failpoints --test e2e --message-format=json 2>/dev/null | sed -n 's/.*"executable":"\([^"]*e2e-[^"]*\)".*/\1/p' | tail -1)
export BERTH_TEST_IMAGES_READY=1 CARGO_MANIFEST_DIR=$PWD
for kernel in ${VM_KERNEL:-6.1 6.12}; do
  echo "=== kernel $kernel"
  VM_KERNEL=$kernel tests/vm.sh "$binary" --test-threads 1 ${VM_TESTS:-smoke::}
done
