# Each target sets up what it needs: an environment in .venv, made once and kept.

PYTHON  ?= python3
VENV    ?= .venv
WORKDIR ?= runs/digits_mlp
BIN     := $(VENV)/bin

# BLAS threads that wait for work keep the cores from JAX's: on a busy machine with two
# cores a fold took fourteen times as long with two of them.
export OPENBLAS_NUM_THREADS := 1

.PHONY: help demo test slow lint format types bench docs matrix fuzz clean
.DEFAULT_GOAL := help

help:  ## Lists the targets.
	@awk -F':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# One stamp per extra of pyproject.toml, so that only the first call installs.
$(VENV)/.installed-%: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "linjax needs Python 3.11 or later; name one with: make PYTHON=python3.12"; exit 1; }
	@echo "==> Setting up $(VENV) with linjax[$*] (some minutes, once)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --editable ".[$*]" --constraint constraints.txt
	@touch $@

demo: $(VENV)/.installed-experiments  ## Trains a small network on digits, makes it smaller, shows how well that went.
	@echo "==> Running configs/digits_mlp.py (a minute or two); all it writes is in $(WORKDIR)"
	@$(BIN)/python -m experiments.main --config=configs/digits_mlp.py --workdir=$(WORKDIR)

test: $(VENV)/.installed-dev  ## Runs the quick tests and all doctests.
	@echo "==> Running tests and doctests (about twenty minutes on two idle cores)"
	@$(BIN)/python -m pytest --numprocesses=auto --maxprocesses=8

slow: $(VENV)/.installed-dev  ## Runs the tests left out of the quick suite.
	@echo "==> Running the slow tests"
	@$(BIN)/python -m pytest -m slow

lint: $(VENV)/.installed-dev  ## Checks style and formatting.
	@echo "==> Checking style and formatting"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: $(VENV)/.installed-dev  ## Formats the code and sorts its imports.
	@$(BIN)/ruff check --select I --fix .
	@$(BIN)/ruff format .

types: $(VENV)/.installed-dev  ## Checks types.
	@echo "==> Checking types"
	@$(BIN)/mypy

bench: $(VENV)/.installed-dev  ## Prints one table of how fast things are, and how that scales.
	@echo "==> Running benchmarks (a quarter of an hour on two cores)"
	@$(BIN)/python -m experiments.benchmarks

docs: $(VENV)/.installed-docs  ## Builds the documentation in site/, warnings being errors.
	@echo "==> Building the documentation"
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "==> Open site/index.html"

# Other versions than those of the main environment, in one of their own.
VERSIONS ?= jax flax
MATRIX   := $(VENV)-$(shell echo '$(PYTHON) $(VERSIONS)' | tr -c 'a-zA-Z0-9.\n' '-')

matrix:  ## Runs the core tests on other versions: PYTHON=python3.13 VERSIONS='jax==0.8.0 flax==0.12.0'.
	@echo "==> Setting up $(MATRIX) with $(VERSIONS)"
	@$(PYTHON) -m venv $(MATRIX)
	@$(MATRIX)/bin/python -m pip install --quiet --editable . $(VERSIONS) pytest hypothesis safetensors equinox
	@$(MATRIX)/bin/python -m pytest -q tests/net tests/fold tests/store tests/frameworks tests/training

fuzz: $(VENV)/.installed-fuzz  ## Feeds damaged files to the loader for a while; SECONDS=60.
	@echo "==> Fuzzing the loader"
	@$(BIN)/python -m tests.store.fuzz -max_total_time=$(or $(SECONDS),60)

clean:  ## Removes the environment and caches; runs/ stays.
	rm -rf $(VENV) $(VENV)-* site .pytest_cache .ruff_cache .mypy_cache .hypothesis
