# One environment in .venv, made from pyproject.toml; everything below runs in it.
PYTHON ?= python3
# Two workers; tests/conftest.py says what goes to which, and in what order.
PYTEST = $(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder
# Pinned here, where the environment is made; the package itself accepts any torch from 2.6 up.
TORCH ?= torch==2.13.0
# An empty one in the environment would let pip choose: the newest, with gigabytes of CUDA.
ifeq ($(strip $(TORCH)),)
override TORCH := torch==2.13.0
endif
# A machine without an NVIDIA GPU on Linux: make lab TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: lab start test test-quick lint release bench bench-grade clean help
help:
	@echo "make lab         set up and open the course in JupyterLab"
	@echo "make test        every test, in the same environment"
	@echo "make test-quick  the tests to run while working (under 3 minutes)"
	@echo "make release     build notebooks/ and the executed solutions/*.ipynb"
	@echo "make bench       ratios and timings (never part of the tests)"
	@echo "make soak        every check and the bank with other seeds (hours)"
	@echo "make bench-grade course grade beside stock nbgrader; about an hour"

.venv/.made: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Bit for Bit needs Python 3.11 or later; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "$(TORCH)" $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

.venv/.made-test: .venv/.made
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	@touch $@

start: .venv/.made
	@$(BIN)/course start

lab: start
	cd work && ../$(BIN)/jupyter lab 00_start_here.ipynb $(if $(filter 0,$(shell id -u)),--allow-root) $(LAB_ARGS)

# System programs that tests want. Without the right to install them the tests that need
# them are skipped and say so; under CI=true a missing one is a failure.
.PHONY: system
system:
	@sh tests/install_system.sh

test: .venv/.made-test system lint
	$(PYTEST) tests $(PYTEST_ARGS)

test-quick: .venv/.made-test lint
	$(PYTEST) -m "not slow and not browser" tests $(PYTEST_ARGS)

lint: .venv/.made-test
	@$(BIN)/ruff check --quiet . && $(BIN)/ruff format --check --quiet grader notebooks/workbench solutions/savepoint tests/*.py

release: .venv/.made
	$(BIN)/course release

bench: .venv/.made-test
	$(BIN)/python -m tests.bench_checks
	$(BIN)/python -m tests.bench_notebooks

# Many draws: the reference 50 times against each check, then the bank with other seeds (hours).
.PHONY: soak
soak: .venv/.made-test
	$(BIN)/python -m tests.many_seeds
	for seed in 1 2 3; do BANK_SEED=$$seed $(PYTEST) tests/test_bank.py; done

# A class of 8 through stock nbgrader and through course grade, then 10, 100 and 1,000 alone.
bench-grade: .venv/.made-test system
	$(BIN)/python -m tests.bench_grade $(BENCH_ARGS)

clean:
	rm -rf .venv build
