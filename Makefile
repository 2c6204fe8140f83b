# Needs Python 3.11 or newer with its venv module, and make; nothing else. `make PYTHON=/path/to/python` chooses the Python.

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; exit; }; done; echo python3)
VENV := .venv
BIN := $(VENV)/bin
SOURCES := model service workers duet
CHECKED := $(SOURCES) tests benchmarks integrations
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: serve test test-slow test-browser test-wheel test-compose contract chaos train-demo publish-demo lint format lock install install-dev clean
.DEFAULT_GOAL := serve

serve: install
	@exec $(BIN)/duet serve

# Tests with a limit on the clock run alone. The others run several at a time, on two cores too: most of them wait for
# processes, and networks as small as those of tests compute best with one thread each. On a large machine:
# `make test TESTERS=8`.
TESTERS := 4
IN_PARALLEL := --numprocesses $(TESTERS) --dist loadfile --no-loadscope-reorder
# A test that fails is run once more, since a busy machine can stop a process for seconds; both results are printed. A
# test that needs it has a race, or its subject has: mend it.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --reruns 1 --reruns-delay 2 --max-suite-reruns 5 --rerun-show-tracebacks
# The files whose text has a mark (tests/test_marks.py): to import all others takes pytest longer than many of these tests.
MARKED = $(shell grep -rlE 'mark\.$(1)\b' tests --include='test_*.py' | sort)
test: install-dev
	$(PYTEST) -m 'timed and not slow' $(call MARKED,timed)
	$(PYTEST) -m 'not browser and not timed and not slow' $(IN_PARALLEL)

# The slowest tests, some ten to fifty seconds each: whole stacks that are killed, hostile uploads, RabbitMQ, the demo model.
test-slow: install-dev
	$(PYTEST) -m 'timed and slow' $(call MARKED,timed)
	$(PYTEST) -m 'slow and not timed' $(IN_PARALLEL) $(call MARKED,slow)

# The studio page in the system's Chromium, as people use it; pictures of every state go to build/screenshots.
test-browser: install-dev
	$(PYTEST) -m browser tests/browser --numprocesses 2 --dist loadfile

# Wheel and sdist: what is in them, and the wheel at work in an empty environment outside the checkout.
test-wheel: install-dev
	$(BIN)/python -m tests.wheel

# The containers of docker-compose.yml on this machine's CPU; takes minutes, and the table goes to build/compose.md.
test-compose: install-dev
	$(BIN)/python -m tests.compose

# Thousands of requests made by chance from the API's own description; `make test` does not include it.
contract: install-dev
	$(BIN)/python -m tests.api_contract

# 600 jobs while everything fails that they need; takes a quarter of an hour, and the tables go to build/chaos.md.
chaos: install-dev
	$(BIN)/python -m benchmarks.chaos

# Trains the demo model within SECONDS, in minutes on one GPU, and packs it into FOLDER: docs/training.md.
SECONDS := 420
FOLDER := build/demo-run
train-demo: install
	$(BIN)/python -m model.demo_training --seconds $(SECONDS) --out $(FOLDER) $(ARGUMENTS)

# Makes the model in FOLDER the one that ships, with what tests and docs record of it; all or nothing. Evaluations that
# the run lacks take minutes on a GPU, hours on two cores.
publish-demo: install-dev
	$(BIN)/python -m benchmarks.publish_demo $(FOLDER) $(ARGUMENTS)

lint: install-dev
	$(BIN)/ruff check $(CHECKED)
	$(BIN)/ruff format --check $(CHECKED)
	$(BIN)/mypy $(SOURCES) integrations/comfyui
	$(BIN)/lint-imports

format: install-dev
	$(BIN)/ruff check --fix $(CHECKED)
	$(BIN)/ruff format $(CHECKED)

# `install` is what serving needs; `install-dev` adds what tests, linters, tracing and training need.
install: $(VENV)/.project
install-dev: $(VENV)/.dev $(VENV)/.project

# The stamps are written last: an interrupted installation is taken up again by the next call.
$(VENV)/.packages: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "Duet needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
		echo "$(PYTHON) has no venv module, which the installation needs. Try another: make PYTHON=/path/to/python3"; exit 1; }
	@echo "Installing the packages of requirements.lock into $(VENV); the first time this takes some minutes."
	@$(PYTHON) -m venv $(VENV)
	@$(PIP_INSTALL) --require-hashes --requirement requirements.lock
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.packages
	@echo "Installing the packages of requirements-dev.lock into $(VENV)."
	@$(PIP_INSTALL) --require-hashes --requirement requirements-dev.lock
	@touch $@

$(VENV)/.project: $(VENV)/.packages pyproject.toml
	@$(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

# Pins every dependency in pyproject.toml, with the hashes of its files; versions already pinned stay where they fit.
# `make lock UPGRADE=--upgrade` takes the newest ones.
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header $(UPGRADE)
lock: install-dev
	echo "setuptools>=77" | $(COMPILE) pyproject.toml - --all-extras --output-file requirements-dev.lock
	echo "setuptools>=77" | $(COMPILE) pyproject.toml - --constraints requirements-dev.lock --output-file requirements.lock
	$(BIN)/python -m tests.compose.requirements

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(CHECKED) -name __pycache__ -type d -prune -exec rm -rf {} +
