#!/bin/bash
# fuzz.sh SECONDS [TARGET...] : builds the fuzz targets with the stable toolchain and runs each for so long, as many at once as there are processors.
# fuzz.sh build : builds them only.
# What cargo-fuzz does with nightly, without it: coverage by LLVM's sancov pass, no address sanitizer (all targets are safe Rust).
# FUZZ_SEED=N: the same inputs in each run, as far as the targets allow; without it, others each time.
# Corpora grow in fuzz/corpus/TARGET; an input that crashes is in fuzz/artifacts/TARGET.
set -eu
cd "$(dirname "$0")/.."
seconds=${1:?seconds for each target, or build}; shift
[ -f fuzz/Cargo.toml ] || { echo "fuzz.sh: no fuzz/Cargo.toml" >&2; exit 1; }
triple=$(rustc -vV | sed -n 's/host: //p')
# Passes and levels as cargo-fuzz sets them. Counters and tables go to all crates but the build scripts (--target keeps them apart).
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions=on -Coverflow-checks=on -Ccodegen-units=1"
CARGO_TARGET_DIR=fuzz/target cargo build --quiet --release --manifest-path fuzz/Cargo.toml --target "$triple" --bins
[ "$seconds" != build ] || exit 0
targets=${*:-$(sed -n '/^\[\[bin\]\]/,$ s/^name = "\(.*\)"/\1/p' fuzz/Cargo.toml)}

one() { # TARGET
  local target=$1 seeds=fuzz/seeds/$1 log=fuzz/artifacts/$1/log
  mkdir -p "fuzz/corpus/$target" "fuzz/artifacts/$target"
  [ -d "$seeds" ] || seeds=
  # shellcheck disable=SC2086
  if "fuzz/target/$triple/release/$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -artifact_prefix="fuzz/artifacts/$target/" \
    -seed="${FUZZ_SEED:-0}" -print_final_stats=1 "fuzz/corpus/$target" $seeds >"$log" 2>&1; then
    echo "fuzz $target: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") runs in $seconds s, $(sed -n 's/.*cov: \([0-9]*\).*/\1/p' "$log" | tail -1) edges"
  else
    printf 'fuzz %s: FAILED\n%s\n' "$target" "$(tail -15 "$log")" >&2; return 1
  fi
}
export -f one; export triple seconds
# shellcheck disable=SC2086
printf '%s\n' $targets | xargs -P "$(nproc)" -I TARGET bash -c 'one TARGET'
