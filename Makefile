PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
FLOWER := $(VENV)/flower
FLOOR := $(VENV)/flower-floor
NVFLARE := $(VENV)/nvflare
ENVIRONMENTS := $(FLOOR)/.installed $(NVFLARE)/.installed $(VENV)/.pythons $(VENV)/.stacks
KERNELS := tests/mpc tests/he/ring tests/he/test_kahe_twin.py tests/he/test_seal_generator.py \
  tests/he/test_packing.py tests/he/test_paillier*.py \
  tests/secagg/test_encoding.py tests/secagg/test_packing.py tests/dp/test_sampling_kernels.py tests/dp/test_rotation.py
MINUTES ?= 30
NUMBER ?= 40
ROUNDS ?= 20
SEED ?= 1
MUTANTS := $(VENV)/mutants

.PHONY: demo service-demo bench test test-stacks test-processes test-flower test-flower-floor test-nvflare test-pythons environments lint format fuzz stress samples constant-time mutants bench-first docs docs-site lock clean

demo: $(INSTALLED)  ## ten hospitals train one classifier; ARGS="--rounds 5 --json" to change it
	$(BIN)/secagg demo $(ARGS)

service-demo: $(INSTALLED)  ## the hospitals over HTTPS, each in a process of its own, while processes die
	$(BIN)/python -m secagg.demo.served $(ARGS)

bench: $(INSTALLED)  ## what every protocol costs, side by side; ARGS="--clients 50 --html bench.html" to change it
	$(BIN)/python -m bench run $(ARGS)

test: $(INSTALLED)  ## every test but those of real processes and heavy frameworks
	$(BIN)/pytest -p no:benchmark -n 2 --dist worksteal -m "not stacks" tests
	NUMBA_DISABLE_JIT=1 $(BIN)/pytest -p no:benchmark -n 2 -q -m "not stacks" $(KERNELS)

# They wait for processes most of the time, so make -j 2 runs two of them side by side. Importing every test would take a
# worker as long as many of these tests take, so only the files with the marker are read.
test-stacks: test-processes test-flower test-nvflare test-flower-floor test-pythons  ## real processes, frameworks, and other Pythons

test-processes: $(VENV)/.stacks  ## real processes over TLS, and heavy frameworks
	$(BIN)/pytest -p no:benchmark -n 2 --dist loadgroup -m stacks $$(grep -rlF --include='test_*.py' pytest.mark.stacks tests | sort)

test-flower: $(FLOWER)/.installed
	$(FLOWER)/bin/pytest -p no:benchmark -n 2 --dist worksteal tests/integrations tests/bench/test_peers.py

# With the oldest Flower that pyproject.toml allows: what reads Flower's names, call stack and containers.
test-flower-floor: $(FLOOR)/.installed
	PYTHONPATH=$(CURDIR)/$(FLOOR) $(FLOWER)/bin/python -c "import sys, flwr; pin = open('requirements/flower-floor.txt').read(); \
	  sys.exit(0 if f'flwr=={flwr.__version__} ' in pin else f'got Flower {flwr.__version__}; expected:\n{pin}')"
	PYTHONPATH=$(CURDIR)/$(FLOOR) $(FLOWER)/bin/pytest -p no:benchmark -n 2 --dist worksteal -q -m "not stacks" \
	  $(addprefix tests/integrations/test_flower,.py _context.py _request.py _simulation.py)

test-nvflare: $(NVFLARE)/.installed
	$(NVFLARE)/bin/pytest -p no:benchmark -n 2 --dist worksteal tests/flare tests/bench/test_peer_nvflare.py

test-pythons: $(INSTALLED) $(VENV)/.pythons  ## the core on each Python from 3.11 to 3.13 that is there
	bash tests/pythons.sh $(BIN)/python

# make -j 3 makes them side by side: a run of pip uses one core.
environments: $(INSTALLED) $(ENVIRONMENTS) $(VENV)/.docs  ## what all of the other commands need

lint: $(INSTALLED)  ## ruff, mypy --strict, import contracts, sizes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.house
	$(BIN)/python -m tests.prose

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

fuzz: $(INSTALLED)  ## hostile bytes for MINUTES=30
	$(BIN)/python -m tests.secagg.fuzz --minutes $(MINUTES)

stress: $(INSTALLED)  ## every call of every role in threads of its own, for ROUNDS=20 sessions of each protocol
	$(BIN)/python -m tests.secagg.stress $(ROUNDS) $(ARGS)

samples: $(INSTALLED)  ## 10^8 draws of each sampler of the ring against its exact mass function
	SECAGG_DRAWS=100000000 $(BIN)/pytest -p no:benchmark -q -s tests/he/ring/test_sampling.py

constant-time: $(INSTALLED)  ## does a branch, an address or the time of a kernel depend on a secret? ARGS="--json FILE --only PATTERN"
	$(BIN)/python -m tests.constant_time $(ARGS)

mutants: $(INSTALLED) $(MUTANTS)/.installed  ## NUMBER=40 single changes drawn by SEED=1: which do the tests notice?
	$(MUTANTS)/bin/python tests/mutants.py --python $(BIN)/python --seed $(SEED) --number $(NUMBER) $(ARGS)

bench-first: $(INSTALLED)  ## kernels against memory copy, raw AES and, where installed, peers
	$(BIN)/pytest bench

docs: $(INSTALLED)  ## write what is generated: the attacks' table, the diagrams and drawings, figures and limits
	$(BIN)/python -m tests.secagg.adversary.table
	$(BIN)/python -m docs.diagrams
	$(BIN)/python -m docs.claims
	$(BIN)/python -m docs.drawings
	$(BIN)/python -m docs.figures
	$(BIN)/python -m docs.benchmark_tables
	$(BIN)/python -m docs.gallery_plots
	$(BIN)/python -m docs.chooser
	$(BIN)/python -m docs.service_tables

docs-site: $(VENV)/.stacks $(VENV)/.docs  ## the documentation as a site, in site/index.html; its tutorials are run
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet -b html docs site
	$(BIN)/python -m docs.book.links site
	$(BIN)/codespell

lock: $(INSTALLED)  ## pin names, versions and hashes anew
	$(BIN)/pip install --quiet pip-tools
	$(BIN)/pip-compile --quiet --generate-hashes --strip-extras --allow-unsafe --no-header \
	  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
	  --extra demo --extra he --extra client --extra service --extra dev -o requirements/dev.txt pyproject.toml
	$(BIN)/pip-compile --quiet --generate-hashes --strip-extras --allow-unsafe --no-header \
	  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
	  --extra demo --extra he --extra flower --extra dev -o requirements/flower.txt pyproject.toml requirements/flower.in

clean:
	rm -rf $(VENV) site docs/reference/api jupyter_execute .mypy_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(INSTALLED): requirements/dev.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

$(VENV)/.stacks: $(INSTALLED) requirements/stacks.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements/stacks.txt
	touch $@

# Two runs of pip don't go together in one environment.
$(VENV)/.docs: $(INSTALLED) requirements/docs.txt | $(VENV)/.stacks
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements/docs.txt
	touch $@

$(MUTANTS)/.installed: requirements/mutants.txt
	$(PYTHON) -m venv $(MUTANTS)
	$(MUTANTS)/bin/pip install --quiet --disable-pip-version-check -r requirements/mutants.txt
	touch $@

# Flower holds typer, rich and packaging below what dev.txt has, so its tests have an environment of their own.
$(FLOWER)/.installed: requirements/flower.txt pyproject.toml
	$(PYTHON) -m venv $(FLOWER)
	$(FLOWER)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/flower.txt
	$(FLOWER)/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

# One wheel in a folder of its own, for PYTHONPATH.
$(FLOOR)/.installed: requirements/flower-floor.txt $(FLOWER)/.installed
	rm -rf $(FLOOR)
	$(FLOWER)/bin/pip install --quiet --disable-pip-version-check --require-hashes --no-deps --target $(FLOOR) \
	  -r requirements/flower-floor.txt
	touch $@

# NVFlare's tests have an environment of their own too: Flower and NVFlare need not agree on their dependencies.
$(NVFLARE)/.installed: requirements/nvflare.txt pyproject.toml
	$(PYTHON) -m venv $(NVFLARE)
	$(NVFLARE)/bin/pip install --quiet --disable-pip-version-check --no-deps -r requirements/nvflare.txt
	$(NVFLARE)/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

$(VENV)/.pythons: requirements/dev.txt tests/pythons.sh
	mkdir -p $(VENV)
	bash tests/pythons.sh $(PYTHON) --install
	touch $@

# Where make -j does both, mypy reads no package that pip is writing.
ifneq ($(filter lint,$(MAKECMDGOALS)),)
$(VENV)/.stacks: | lint
endif
