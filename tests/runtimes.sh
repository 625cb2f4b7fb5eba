#!/bin/bash
# runtimes.sh [RUNTIME...] : the end-to-end tests of what runs containers, with these OCI runtimes of the host as the default: crun runc.
# MODULES="run exec" takes some modules of tests/e2e only. What a runtime lacks is skipped by name, and listed at the end.
set -u
cd "$(dirname "$0")/.."
# Left out: moments and weakened, whose subject are walls of our own runtime's; apparmor and selinux, which want another host.
modules=${MODULES:-addressing advisories attach binds boot campaign cdi cgroup_driver changes cni cni_faults confined cp crowd ctl cut damage database \
  doctor escapes exec explain faults forward frames health hostile hosts images landlock layers lifecycle limits log_collectors log_drivers logs look metrics \
  names neighbours network network_faults networks permissions port_addresses ports powercut prune registry_faults resources restart resume reuse roles run \
  runtimes sandbox smoke soak spoof storage survive tls trace upgrade usage userns userns_config verbs visible volume_faults volume_options volume_quotas \
  volume_resume volume_shares volumes world}
# shellcheck disable=SC2086
modules=$(printf '%s|' $modules)
. tests/fixtures/env.sh
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-auto}
if [ -z "${BERTH_TEST_IMAGES_READY:-}" ]; then
  tests/fixtures/setup.sh && tests/fixtures/registry.sh start && tests/fixtures/images.sh || exit 1
  trap 'tests/fixtures/registry.sh stop >/dev/null 2>&1' EXIT
  export BERTH_TEST_IMAGES_READY=1
fi
BERTH_TEST_SKIPPED=$(mktemp) || exit 1
export BERTH_TEST_SKIPPED
failed=
for runtime in ${*:-crun runc}; do
  command -v "$runtime" >/dev/null || PATH=$PATH:/usr/sbin command -v "$runtime" >/dev/null || { echo "$runtime is not installed" >&2; exit 1; }
  : >"$BERTH_TEST_SKIPPED"
  echo "=== $runtime"
  BERTH_TEST_RUNTIME=$runtime cargo nextest run --workspace --features berth/failpoints --no-fail-fast \
    -E "binary(e2e) and test(/^(${modules%|})::/)" || failed="$failed $runtime"
  sort -u "$BERTH_TEST_SKIPPED"
done
rm -f "$BERTH_TEST_SKIPPED"
[ -z "$failed" ] || { echo "error: tests failed with$failed" >&2; exit 1; }
