#!/usr/bin/env bash
# Makes the reference results again: JSON and pictures, which are committed, and a page for each command, which is
# not. With names, only those: bash bench/results/make.sh masks workers. Then `make docs` writes the tables.
# PYTHON is the Python of an environment with secagg[demo,peers], by default that of `make`, which lacks the peers.
# FLOWER and NVFLARE are those of environments with Flower and with NVFlare, which hold back some packages of others;
# without them it is PYTHON. All of it takes an hour and a half on two cores of a machine that does nothing else; the
# minutes of each part stand beside it.
set -euo pipefail
cd "$(dirname "$0")/../.."
if [[ -z ${PYTHON:-} && -x .venv/bin/python ]]; then PYTHON=.venv/bin/python; fi
: "${PYTHON:?set it to the Python of an environment with secagg[demo,peers]}"
FLOWER=${FLOWER:-$PYTHON}
NVFLARE=${NVFLARE:-$PYTHON}
OUT=${OUT:-bench/results}
PEERS=(phe pypaillier tenseal fate_utils opendp dp-accounting)

bench() {
  local command=$1 name=$2
  shift 2
  "$PYTHON" -m bench "$command" "$@" --json "$OUT/$name.json" --html "$OUT/$name.html"
}

make_part() {
  case $1 in
    masks) bench masks masks ;;                                                       # 1
    cold) bench cold cold ;;                                                          # 1
    run) bench run run ;;                                                             # 3
    workers) bench sweep workers --over workers --out "$OUT/workers.png" ;;           # 1
    dropout) bench sweep dropout --over dropout --out "$OUT/dropout.png" ;;           # 2
    coordinates) bench sweep coordinates --over coordinates --out "$OUT/coordinates.png" ;; # 3
    clients) bench sweep clients --over clients --out "$OUT/clients.png" ;;           # 6
    rates) "$PYTHON" -m bench rates --json "$OUT/rates.json" ;;                       # 4
    plan) bench plan plan --clients 1000000 --coordinates 10000000 --uplink 10Mbit --machines 3 --cores 16 --check ;; # 4
    flower) PYTHON=$FLOWER bench peers flower --peer flwr --require ;;                # 6
    nvflare) PYTHON=$NVFLARE bench peers nvflare --peer nvflare --require ;;          # 3
    peers) bench peers peers "${PEERS[@]/#/--peer=}" --require ;;                     # 4
    scale) bench sweep scale --out "$OUT/scale.png" ;;                                # 6
    crowd) bench crowd crowd ;;                                                       # 15
    oneshot) bench oneshot oneshot ;;                                                 # 2
    ring) bench ring ring ;;                                                          # 2
    resnet18) bench resnet18 resnet18 --out "$OUT/resnet18.png" ;;                    # 10
    federated) bench federated federated --out "$OUT/federated.png" ;;                # 5
    service) bench service service ;;                                                 # 20
    *) echo "make.sh: there is no part $1; the parts are ${PARTS[*]}" >&2; return 2 ;;
  esac
}

PARTS=(masks cold run workers rates plan flower nvflare dropout coordinates clients scale peers crowd)
PARTS+=(oneshot ring resnet18 federated service)
for part in "${@:-${PARTS[@]}}"; do
  began=$SECONDS
  make_part "$part"
  echo "make.sh: $part took $((SECONDS - began)) s" >&2
done
