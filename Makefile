# `make demo` and `make test` do all the set-up they need. Everything is installed into .venv.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/installed
EXTRAS := $(VENV)/installed-extras
SITE   := $(VENV)/installed-site
# The tests run small models: one thread each, and one process for each core. What the tests of a file share is made once.
TEST   := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
SPREAD := -n auto --dist loadfile

.PHONY: help demo test lint types doctest unit test-faults test-all test-slow test-long test-gpu bench bench-gpu reliability reliability-long
.PHONY: install clean screenshots docs

help:
	@echo "make demo      compare LLM-JEPA with next-token prediction on generated pairs (minutes on two cores)"
	@echo "make test      lint, types, doctests and tests"
	@echo "make test-faults  the faults of docs/reliability.md, caused on purpose (the slowest: test-slow)"
	@echo "make test-slow the tests marked slow"
	@echo "make test-all  test, test-faults and test-slow"
	@echo "make test-long the tests marked long (many minutes)"
	@echo "make test-gpu  the tests marked gpu, on a CUDA device"
	@echo "make bench     the cost of a step (docs/results.md)"
	@echo "make reliability  the faults of docs/reliability.md, and its table; reliability-long: 200 kills too"
	@echo "make screenshots REPORT=runs/demo/report.html  pictures of a report, by a headless Chromium"
	@echo "make docs      the documentation as a site, in build/docs; a broken link fails"
	@echo "make bench-gpu the cost of a step on a CUDA device, into benchmarks/results/"

demo: $(STAMP)
	$(BIN)/llm-jepa demo --out runs/demo

test: lint types doctest unit

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

types: $(STAMP)
	$(BIN)/mypy

doctest: $(STAMP)
	$(TEST) -q --doctest-modules src

unit: $(STAMP)
	$(TEST) -q $(SPREAD) -m "not slow and not gpu and not long" --ignore tests/faults

test-faults: $(STAMP)
	$(TEST) -q $(SPREAD) -m "not slow and not gpu and not long" tests/faults

test-all: test test-faults test-slow

test-slow: $(EXTRAS)
	$(TEST) -q $(SPREAD) -m slow --timeout 1200

test-long: $(STAMP)
	$(TEST) -q -m long --timeout 0

test-gpu: $(STAMP)
	$(TEST) -q -m gpu

bench: $(STAMP)
	$(BIN)/python benchmarks/step_cost.py
	$(BIN)/python benchmarks/nanogpt_step.py

reliability: FAULTS = not gpu and not long
reliability-long: FAULTS = not gpu
reliability: $(STAMP)
reliability-long: $(EXTRAS)
reliability reliability-long:
	@rm -f $(VENV)/faults.jsonl
	LLM_JEPA_FAULTS=$(CURDIR)/$(VENV)/faults.jsonl $(TEST) -q tests/faults -m "$(FAULTS)" --timeout 0
	$(BIN)/python tests/faults/write_table.py $(VENV)/faults.jsonl

bench-gpu: $(STAMP)
	$(BIN)/python benchmarks/gpu.py

REPORT ?= runs/demo/report.html
SHOTS  ?= screenshots
screenshots: $(STAMP)
	$(BIN)/python benchmarks/screenshots.py $(REPORT) --out $(SHOTS)

docs: $(SITE)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "Open build/docs/index.html. For its search: $(BIN)/python -m http.server --directory build/docs"

install: $(STAMP)

# torch first and pinned: left to the others' ranges, pip would fetch a CUDA build of several gigabytes.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "llm-jepa needs Python 3.11 or later; $(PYTHON) is older. Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

# What only the slow tests need.
$(EXTRAS): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[qlora,ray,trl]'
	@touch $@

$(SITE): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .mypy_cache
