#!/bin/bash
# check.sh [STEP...] : all checks, or those named: setup lint unit e2e vm fuzz. Goes on behind a failed step, says at its end what failed.
set -u
cd "$(dirname "$0")/.."
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-auto} RUST_BACKTRACE=1
steps=${*:-setup lint unit e2e vm fuzz}
failed= began=$SECONDS
. tests/fixtures/env.sh

# The tests run without nextest, too: the same ones in the same environment, but a hanging one takes the rest along.
nextest() { cargo nextest --version >/dev/null 2>&1; }

setup() {
  tests/fixtures/setup.sh
}

lint() {
  cargo fmt --all --check &&
    cargo clippy --quiet --workspace --all-targets -- -D warnings &&
    cargo clippy --quiet --workspace --features berth/failpoints --all-targets -- -D warnings &&
    providers && unsafe_code && licences
}

# What deny.toml allows, where cargo-deny is installed; the advisories need a network, and are for those who release.
licences() {
  ! cargo deny --version >/dev/null 2>&1 || cargo deny --log-level error check licenses bans sources
}

# One crypto provider; nothing that links OpenSSL.
providers() {
  local crate bad=0
  for crate in ring openssl-sys native-tls; do
    if cargo tree --workspace --target all -e normal,build,dev -i "$crate" 2>/dev/null | grep -q .; then
      echo "error: $crate is in the dependency tree: cargo tree -i $crate" >&2; bad=1
    fi
  done
  return $bad
}

# unsafe, nix, rustix and libc are sys' alone.
unsafe_code() {
  local bad=0 root crate
  for root in proto/lib.rs agent/main.rs ctl/main.rs agent/*/src/lib.rs agent/*/src/main.rs; do
    case $root in agent/sys/*) continue ;; esac
    grep -q '^#!\[forbid(unsafe_code)\]' "$root" || { echo "error: $root does not forbid unsafe code" >&2; bad=1; }
  done
  for crate in agent/*/Cargo.toml; do
    case $crate in agent/sys/*) continue ;; esac
    if grep -qE '^(nix|rustix|libc)\b' "$crate"; then echo "error: $crate depends on nix, rustix or libc" >&2; bad=1; fi
  done
  return $bad
}

# Both steps build the same: the whole workspace with the fail points.
build="--workspace --features berth/failpoints --no-fail-fast"

# Some unit tests pull from the real registry too. It is stopped at the end of all steps.
# BERTH_TEST_INSTALLED: programs of setup.sh's that are missing make tests fail, where they are left out by name otherwise.
registry() {
  tests/fixtures/setup.sh && export BERTH_TEST_INSTALLED=1 &&
    tests/fixtures/registry.sh start && tests/fixtures/images.sh && export BERTH_TEST_IMAGES_READY=1
}
ended() {
  ! jobs -pr | grep -qx "${fuzz_build:-none}" || kill -- "-$fuzz_build"
  rm -f "$fuzz_log"
  tests/fixtures/registry.sh stop >/dev/null 2>&1
}
fuzz_build=
fuzz_log=$(mktemp) || exit 1
trap ended EXIT

unit() {
  registry || return 1
  # shellcheck disable=SC2086
  if nextest; then
    cargo nextest run $build -E 'not binary(e2e)'
  else
    timeout 1200 cargo test --workspace --exclude berth --no-fail-fast && timeout 600 cargo test -p berth --lib --bins --no-fail-fast
  fi
}

# Half of the end-to-end tests' time is waiting, and a VM takes one processor. The fuzz targets, which take longer to build than all the rest, are built
# beside both, with what they leave over: SCHED_IDLE says so among the processes of a session, and autogroup for the session among others (sched(7)).
fuzz_targets() {
  case " ${steps#*e2e} " in *" fuzz "*) ;; *) return ;; esac
  setsid bash -c 'echo 19 >/proc/self/autogroup; exec chrt --idle 0 tests/fuzz.sh build' >"$fuzz_log" 2>&1 &
  fuzz_build=$!
}

e2e() {
  registry || return 1
  fuzz_targets
  local result=0
  # shellcheck disable=SC2086
  if nextest; then
    cargo nextest run $build -E 'binary(e2e)' || result=1
  else
    timeout 1500 cargo test $build --test e2e -- --test-threads 2 || result=1
  fi
  return $result
}

# Always the same inputs: a check says whether this change broke something. New inputs are what `make fuzz` looks for.
fuzz() {
  if [ -n "$fuzz_build" ]; then
    # Nothing of ours is waiting any more: as much as others get.
    echo 0 >"/proc/$fuzz_build/autogroup" 2>/dev/null
    wait "$fuzz_build" || { fuzz_build=; cat "$fuzz_log" >&2; return 1; }
    fuzz_build=
  fi
  FUZZ_SEED=${FUZZ_SEED:-1} tests/fuzz.sh "${FUZZ_SECONDS:-5}"
}

# Debian 12's kernel with nothing but cgroup v2, in a VM under emulation: the smoke test of tests/vm-test.sh, and those end-to-end tests whose subject
# this host's cgroup v1 has not, or that want AppArmor. Where the emulator cannot be had it is left out by name, but not in continuous integration;
# where it is there and does not start, the check fails. One that ends without a word gets a second try.
vm() {
  if ! tests/fixtures/setup.sh --vm; then
    echo "left out: the VM's programs cannot be installed here (tests/fixtures/setup.sh --vm)"; [ "${CI:-}" != true ]; return
  fi
  if ! VM_KERNEL=6.1 VM_CPUS=1 VM_SECONDS=120 tests/vm.sh true && ! VM_KERNEL=6.1 VM_CPUS=1 VM_SECONDS=120 tests/vm.sh true; then
    echo "error: the VM does not start (tests/vm.sh true)" >&2; return 1
  fi
  registry || return 1
  cargo build --quiet --workspace --features berth/failpoints --bins --test e2e || return 1
  BERTH_VM_LAYERS=directory in_vm "${VM_SECONDS:-420}" tests/vm-smoke.sh target/debug &&
    BERTH_TEST_SECONDS=300 in_vm "${VM_E2E_SECONDS:-1200}" tests/vm-e2e.sh target/debug limits:: \
      resources::disks resources::files resources::a_container apparmor::
}

in_vm() { # SECONDS COMMAND...
  local result seconds=$1; shift
  for _ in 1 2; do
    VM_KERNEL=6.1 VM_CPUS=1 VM_SECONDS=$seconds tests/vm.sh "$@"
    result=$?
    [ $result = 124 ] || break
  done
  return $result
}

summary=
for step in $steps; do
  case $step in setup | lint | unit | e2e | vm | fuzz) ;; *) sed -n 2p "$0" >&2; exit 2 ;; esac
  start=$SECONDS
  echo "=== $step"
  if "$step"; then verdict=ok; else verdict=FAILED failed=1; fi
  summary="$summary$(printf '%-6s %-6s %4d s' "$step" "$verdict" $((SECONDS - start)))"$'\n'
done
printf '=== summary\n%sall    %-6s %4d s\n' "$summary" "${failed:+FAILED}${failed:-ok}" $((SECONDS - began)) | sed 's/FAILED1/FAILED/'
[ -z "$failed" ]
