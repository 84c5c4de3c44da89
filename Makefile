# Two commands from a fresh clone, with nothing but Python and make:  make demo,  make test.
# Everything lives in .venv; PYTHON chooses the interpreter that makes it (3.11 or newer).
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PYTEST := $(BIN)/python -m pytest $(PYTEST_ARGS)

.PHONY: demo test test-slow check bench install clean

install: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || { echo "dpm needs Python 3.11 or newer: make PYTHON=python3.12 ..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[test,check]"
	@touch $@

demo: $(STAMP)
	$(BIN)/dpm demo demo

test: $(STAMP)
	$(PYTEST) -m "not slow"

test-slow: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[slow]"
	$(PYTEST) -m slow

check: $(STAMP)
	$(BIN)/ruff check dpm tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)
	$(BIN)/python benchmarks/bench_hst1pass_bulge.py
	$(BIN)/python benchmarks/bench_sim.py --source truth
	$(BIN)/python benchmarks/bench_sim.py --source build
	$(BIN)/python benchmarks/bench_epochs.py
	$(BIN)/python benchmarks/bench_calibration.py real limit

clean:
	rm -rf $(VENV) demo
