#!/usr/bin/env bash
# The core of the suite on each of Python 3.11, 3.12 and 3.13 that this machine has, in an environment of its own:
# masks and shares, packing, encoding, wire, one session of every protocol, and the service with its clients.
# Run by make test-stacks, with the Python that the whole suite ran on as the argument. With --install as the second
# one it makes the environments, and runs nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
ran=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])')

python_of() {  # version -> a Python of it that works; a shim of pyenv may be there and not work
  local found
  for found in "$(command -v "python$1" || true)" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1".*/bin/python; do
    if [ -x "$found" ] && "$found" -c 'import ensurepip, venv' 2>/dev/null; then
      echo "$found"
      return
    fi
  done
}

for version in 3.11 3.12 3.13; do
  if [ "$version" = "$ran" ]; then
    echo "Python $version: the whole suite runs on it"
    continue
  fi
  python=$(python_of "$version")
  if [ -z "$python" ]; then
    echo "Python $version: skipped, this machine has none"
    continue
  fi
  began=$SECONDS
  home=.venv/python$version
  if [ ! -e "$home/.installed" ] || [ requirements/dev.txt -nt "$home/.installed" ]; then
    rm -rf "$home"
    "$python" -m venv "$home"
    "$home/bin/pip" install --quiet --disable-pip-version-check --require-hashes --only-binary :all: \
      -r requirements/dev.txt
    touch "$home/.installed"
  fi
  if [ "${2-}" = --install ]; then
    continue
  fi
  PYTHONPATH=$PWD "$home/bin/python" -m pytest -p no:benchmark -n 2 -q tests/mpc tests/secagg/test_packing.py \
    tests/secagg/test_encoding.py tests/secagg/test_wire.py tests/secagg/test_folder.py \
    tests/service/test_joining.py tests/service/test_listener.py tests/remote/test_connect.py \
    tests/secagg/test_cli_demo.py::test_demo_prints_the_table_and_draws_the_picture_in_this_folder
  echo "Python $version: $((SECONDS - began)) s"
done
