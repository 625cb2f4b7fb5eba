#!/bin/bash
# run.sh : builds what the bench measures and runs it. Environment: SECTIONS=start,exec,rate,memory,pull,list,agent,stats,crowd,throughput,neighbours (default: all but the last three),
# RUNS (measurements of each kind, default 20), N (containers of stats, default 100), CROWD (containers of crowd, default 1000), TURNS (of throughput, which needs iperf3; default 10), BIG=1 (the 1 GB image, too), BENCH_PEERS=SCRIPT (see bench.py --help).
set -eu
cd "$(dirname "$0")/../.."
. tests/fixtures/env.sh
tests/fixtures/setup.sh; tests/fixtures/setup.sh --bench
cargo build --quiet --release --bins
tests/fixtures/registry.sh start
sections=${SECTIONS:-start,exec,rate,memory,pull,list,agent,stats}
images="busybox nginx"
case ,$sections, in *,pull,*) [ -z "${BIG:-}" ] || images="$images big big-zstd" ;; esac
# shellcheck disable=SC2086
tests/fixtures/images.sh $images
cc -O2 -o "$BERTH_TEST_DIR/floor" tests/bench/floor.c
cc -O2 -o "$BERTH_TEST_DIR/clock" tests/bench/clock.c
cc -O2 -static -o "$BERTH_TEST_DIR/latency" tests/bench/latency.c
result=0
python3 tests/bench/bench.py --sections "$sections" --runs "${RUNS:-20}" ${BIG:+--big} ${BENCH_PEERS:+--peers "$BENCH_PEERS"} || result=$?
tests/fixtures/registry.sh stop
exit $result
