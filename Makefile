# make demo | make test | make check | make evidence
# TORCH chooses the PyTorch build, for example TORCH="torch==2.13.0"; PYTHON the interpreter.
PYTHON ?= python3
TORCH ?= torch
VENV ?= .venv
BIN := $(VENV)/bin
export HF_HUB_DISABLE_TELEMETRY = 1
# one thread a process: more are slower on models of this size, and both cores are used by processes
export OMP_NUM_THREADS = 1

.PHONY: install install-dev demo test check evidence clean

install: $(VENV)/installed
install-dev: $(VENV)/installed-dev

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@

demo: install
	$(BIN)/trl-tar demo --output demo

test: install-dev
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 --dist worksteal -q tests

check: install-dev
	$(BIN)/ruff check trl_tar tests examples recipes
	$(BIN)/ruff format --check trl_tar tests examples recipes
	$(BIN)/mypy

evidence: install
	$(BIN)/trl-tar evidence --output evidence

clean:
	rm -rf $(VENV) demo
