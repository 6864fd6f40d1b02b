#!/usr/bin/env bash
# Makes the reference results again: JSON and pictures, which are committed, and a page for each command, which is
# not. PYTHON is the Python of an environment with secagg[demo,peers]. It takes forty minutes on a machine that does
# nothing else.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${PYTHON:?set it to the Python of an environment with secagg[demo,peers]}"
OUT=${OUT:-bench/results}

"$PYTHON" -m bench run --json "$OUT/run.json" --html "$OUT/run.html"
"$PYTHON" -m bench peers --require --json "$OUT/peers.json" --html "$OUT/peers.html"
for over in clients coordinates dropout; do
  "$PYTHON" -m bench sweep --over "$over" --out "$OUT/$over.png" --json "$OUT/$over.json" --html "$OUT/$over.html"
done
"$PYTHON" -m bench plan --clients 1000000 --coordinates 10000000 --uplink 10Mbit --check \
  --json "$OUT/plan.json" --html "$OUT/plan.html"
"$PYTHON" -m bench ring --json "$OUT/ring.json"
"$PYTHON" -m bench oneshot --json "$OUT/oneshot.json"
"$PYTHON" -m bench service --json "$OUT/service.json"
"$PYTHON" -m bench resnet18 --out "$OUT/resnet18.png" --json "$OUT/resnet18.json"
"$PYTHON" -m bench federated --out "$OUT/federated.png" --json "$OUT/federated.json"
