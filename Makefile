# Needs Python 3.11 or newer with its venv module, and make; nothing else. `make PYTHON=/path/to/python` chooses the Python.

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; exit; }; done; echo python3)
VENV := .venv
BIN := $(VENV)/bin
SOURCES := model service workers duet
CHECKED := $(SOURCES) tests benchmarks
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: serve test test-browser test-compose contract chaos lint format install clean
.DEFAULT_GOAL := serve

serve: install
	@exec $(BIN)/duet serve

# Those that look at the clock alone, as the machine is. Then three at a time, on two cores as well: most of them wait for
# processes, and those that compute take one thread each.
# `make test TESTERS=8` on a large machine.
TESTERS := 3
test: install
	$(BIN)/python -m pytest -m timed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not browser and not timed' --numprocesses $(TESTERS) --dist loadfile \
		--no-loadscope-reorder

# The studio page in the system's Chromium, as people use it; pictures of every state go to build/screenshots.
test-browser: install
	$(BIN)/python -m pytest -m browser tests/browser

# The containers of docker-compose.yml on this machine's CPU; takes minutes, and the table goes to build/compose.md.
test-compose: install
	$(BIN)/python -m tests.compose

# Thousands of requests made by chance from the API's own description; `make test` does not include it.
contract: install
	$(BIN)/python -m tests.api_contract

# 500 jobs while everything is killed; takes minutes, and the table goes to build/chaos.md.
chaos: install
	$(BIN)/python -m benchmarks.chaos

lint: install
	$(BIN)/ruff check $(CHECKED)
	$(BIN)/ruff format --check $(CHECKED)
	$(BIN)/mypy $(SOURCES)

format: install
	$(BIN)/ruff check --fix $(CHECKED)
	$(BIN)/ruff format $(CHECKED)

install: $(VENV)/.project

# The stamps are written last: an interrupted installation is taken up again by the next call.
$(VENV)/.packages: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "Duet needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
		echo "$(PYTHON) comes without its venv module, which Duet is installed with. Try another: make PYTHON=/path/to/python3"; exit 1; }
	@echo "Installing what requirements.lock names into $(VENV); the first time this takes some minutes."
	@$(PYTHON) -m venv $(VENV)
	@$(INSTALL) --requirement requirements.lock
	@touch $@

$(VENV)/.project: $(VENV)/.packages pyproject.toml
	@$(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(CHECKED) -name __pycache__ -type d -prune -exec rm -rf {} +
