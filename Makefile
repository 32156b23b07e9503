# Two commands on a fresh machine: `make run` and `make test`. Everything else builds on them.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# Wheels and other downloads survive `rm -rf .venv`, so that a second run is quick.
export PIP_CACHE_DIR ?= $(CURDIR)/.cache/pip
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: run test check proof bench clean
.DELETE_ON_ERROR:

run: $(VENV)/.run ## the gateway on embedded defaults: ./data, port 8787
	@exec $(BIN)/smoltbot serve

test: check system ## everything that CI runs
	$(BIN)/pytest -m "not alone" --numprocesses 2 --dist worksteal
	$(BIN)/pytest -m alone

check: $(VENV)/.dev ## lint, format, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

proof: $(VENV)/.dev system ## the long proofs at full size; copy the figures into docs/proofs.md
	PROOF=1 $(BIN)/pytest -m proof -s --timeout 5400

bench: $(VENV)/.dev ## the gateway against direct, nginx and a bare aiohttp pass-through
	sh bench/install.sh
	$(BIN)/python -m bench

.PHONY: system
system: $(VENV)/.dev
	sh tests/install.sh
	@$(MAKE) --no-print-directory $(ORACLES)

# Cloudflare's own runtime and the protocol's own verifier, at the versions of the lock files.
ORACLES := tests/workerd/node_modules/.package-lock.json tests/attestation/node_modules/.package-lock.json
$(ORACLES): tests/%/node_modules/.package-lock.json: tests/%/package-lock.json
	cd tests/$* && npm ci --no-audit --no-fund --loglevel=error
	@touch $@

# Debian ships Python without the part of venv that installs pip.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || sh tests/install.sh python3-venv
	$(PYTHON) -m venv $(VENV)

# A stamp per set of extras: `make run` must not wait for what only tests need.
$(VENV)/.run: $(VENV)/bin/python pyproject.toml
	@$(BIN)/pip install --quiet --editable '.[all]'
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/.run

clean:
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist
