#!/usr/bin/env bash
# The reference results, anew. PYTHON is an environment with secagg[demo,peers]; needs a quarter of an hour of a machine
# that does nothing else.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${PYTHON:?set it to the python of an environment with secagg[demo,peers]}"
OUT=${OUT:-bench/results}

"$PYTHON" -m bench run --json "$OUT/run.json" --html "$OUT/run.html"
"$PYTHON" -m bench peers --require --json "$OUT/peers.json" --html "$OUT/peers.html"
for over in clients coordinates dropout; do
  "$PYTHON" -m bench sweep --over "$over" --out "$OUT/$over" --json "$OUT/$over.json" --html "$OUT/$over.html"
done
"$PYTHON" -m bench plan --clients 1000000 --coordinates 10000000 --uplink 10Mbit --check \
  --json "$OUT/plan.json" --html "$OUT/plan.html"
