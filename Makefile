# depthflow: two commands matter, `make demo` and `make test`. Both make .venv first if need be.

PYTHON ?= python3
BIN := .venv/bin
LOCK ?= requirements.lock
SOURCE ?=
OUT ?= demo-out

.DEFAULT_GOAL := help
.PHONY: help venv demo test check format lock clean system-libraries

help: ## Say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "make %-8s %s\n", $$1, $$2}'

venv: .venv/.installed ## Make .venv with exact versions; LOCK=requirements-gpu.lock adds CUDA

demo: venv ## Run the whole chain on a mini-DIODE, or with SOURCE=DIR on your own tree
	$(BIN)/python pipelines/demo.py --out "$(OUT)" $(if $(SOURCE),--source "$(SOURCE)")

test: venv ## Run all tests, two files at a time
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

check: venv ## Lint, format, types, import layers, spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/codespell

format: venv ## Rewrite the code as ruff formats it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

RESOLVE := $(BIN)/uv pip compile pyproject.toml --extra dev --extra cluster --extra s3 --extra gcs --extra bench --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --no-emit-find-links --no-header

lock: venv ## Resolve pyproject.toml anew into both lock files
	$(RESOLVE) --upgrade --output-file requirements.lock
	$(RESOLVE) --extra gpu --constraints requirements.lock --output-file requirements-gpu.lock

clean: ## Remove .venv and what the demo made
	rm -rf .venv demo-out

.venv/.installed: $(LOCK) pyproject.toml | system-libraries
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "depthflow needs Python 3.11 or newer: pass PYTHON=python3.12, say."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(LOCK)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# opencv-python is linked against these two, which no wheel brings.
system-libraries:
	@$(PYTHON) -c 'import ctypes; ctypes.CDLL("libGL.so.1"); ctypes.CDLL("libglib-2.0.so.0")' 2>/dev/null || \
		{ echo "opencv-python needs two system libraries: sudo apt-get install -y libgl1 libglib2.0-0"; exit 1; }
