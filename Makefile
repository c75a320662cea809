# The two commands that matter are `make demo` and `make test`. Both create .venv first if it is missing.

PYTHON ?= python3
BIN := .venv/bin
LOCK ?= requirements.lock
SOURCE ?=
OUT ?= demo-out

PYTEST := $(BIN)/python -m pytest
TWO_AT_A_TIME := -n 2 --dist loadfile --no-loadscope-reorder
# What takes minutes begins first, so that no worker waits for it at the end.
LONGEST := $(addprefix tests/long/test_,tutorial.py equality.py champion.py)

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-long test-nodes coverage check docs format lock clean system-libraries

help: ## Say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "make %-14s %s\n", $$1, $$2}'

venv: .venv/.installed ## Make .venv with exact versions; LOCK=requirements-gpu.lock adds CUDA

demo: venv ## Run the whole chain on a mini-DIODE, or with SOURCE=DIR on your own frames
	$(BIN)/python pipelines/demo.py --out "$(OUT)" $(if $(SOURCE),--source "$(SOURCE)")

test: venv ## Run tests/unit, tests/contract and tests/integration: every part, and each command once
	$(PYTEST) $(TWO_AT_A_TIME) $(ARGS)

test-long: venv ## Run tests/long: faults, kills, one worker against many, the tutorial
	$(PYTEST) $(LONGEST) $(filter-out $(LONGEST),$(wildcard tests/long/test_*.py)) $(TWO_AT_A_TIME) $(ARGS)

test-nodes: venv ## Run tests/nodes: clusters of several Ray nodes, on an otherwise idle machine
	$(PYTEST) tests/nodes $(ARGS)

coverage: venv ## Run test and test-long, and list the lines of depthflow/ that no test reaches in its own process
	$(PYTEST) tests --ignore=tests/nodes $(TWO_AT_A_TIME) --cov=depthflow --cov-report=term-missing:skip-covered $(ARGS)

check: venv ## Lint, format, types, import layers, spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/codespell

docs: venv ## Build the documentation into site/, without a network
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "$(CURDIR)/site/index.html"

format: venv ## Rewrite the code as ruff formats it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

RESOLVE := $(BIN)/uv pip compile pyproject.toml --extra cluster --extra s3 --extra gcs --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --no-emit-find-links --no-header

# Two files, since CUDA adds 13 packages (about 3 GB). uv.lock and pylock.toml hold such variants in one file, but record
# the address of the index.
lock: venv ## Resolve pyproject.toml anew into both lock files
	$(RESOLVE) --extra dev --extra bench --extra docs --extra export --upgrade --output-file requirements.lock
	$(RESOLVE) --extra dev --extra bench --extra docs --extra export --extra gpu --constraints requirements.lock --output-file requirements-gpu.lock

clean: ## Remove the environment and what the demo made
	rm -rf .venv demo-out tutorial-out site .coverage

# uv, of the locked version, installs the rest; pip does where uv cannot, behind a mirror that only pip is told of, say.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
UV := $(BIN)/uv pip install --quiet --python

.venv/.installed: $(LOCK) pyproject.toml | system-libraries
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "depthflow needs Python 3.11 or newer: pass PYTHON=python3.12, say."; exit 1; }
	$(PYTHON) -m venv .venv
	@awk '/^[^ #]/ { is_uv = /^uv==/ } is_uv' requirements.lock >.venv/uv.lock
	$(PIP) --require-hashes -r .venv/uv.lock
	$(UV) $(BIN)/python --require-hashes -r $(LOCK) || $(PIP) --require-hashes -r $(LOCK)
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

# uv leaves the bytecode to the first import, so imports must write it, though containers often say otherwise.
unexport PYTHONDONTWRITEBYTECODE
export UV_HTTP_TIMEOUT ?= 180

# opencv-python is linked against these two, which no wheel brings.
system-libraries:
	@$(PYTHON) -c 'import ctypes; ctypes.CDLL("libGL.so.1"); ctypes.CDLL("libglib-2.0.so.0")' 2>/dev/null || \
		{ echo "opencv-python needs two system libraries: sudo apt-get install -y libgl1 libglib2.0-0"; exit 1; }
