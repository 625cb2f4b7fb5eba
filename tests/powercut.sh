#!/bin/bash
# The power-cut campaign: tests/e2e/powercut.rs at many points of the record. POINTS=100000 looks at every single write.
set -eu
cd "$(dirname "$0")/.."
export BERTH_TEST_POWERCUTS=${POINTS:-400}
exec cargo nextest run -p berth --test e2e --no-capture -E 'test(powercut)' --config 'profile.default.slow-timeout={period="3600s"}'
