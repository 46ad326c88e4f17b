# make install | demo | test | test-tensorrt | check | docs | format | clean
# PYTHON: the interpreter that .venv is made from (3.11 or newer).  RUNTIME: cpu or gpu, the build of ONNX Runtime.

PYTHON ?= python3
RUNTIME ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
DEMO_RUN ?= runs/demo
SOURCES := jdnas export latency tests $(wildcard benchmarks)
BIN := .venv/bin
STAMP := .venv/.installed-$(RUNTIME)

.PHONY: install demo test test-tensorrt check docs format clean
.DEFAULT_GOAL := install

install: $(STAMP)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("jdnas needs Python 3.11 or newer; name one: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv

# The two builds of ONNX Runtime overwrite each other's files, so the other one goes first.
$(STAMP): pyproject.toml | $(BIN)/python
	@rm -f .venv/.installed-*
	@$(BIN)/python -m pip uninstall --quiet --yes $(if $(filter gpu,$(RUNTIME)),onnxruntime,onnxruntime-gpu) 2>/dev/null || true
	$(BIN)/python -m pip install --editable '.[dev,$(RUNTIME)]'
	@touch $@

demo: install
	$(BIN)/jdnas optimize --base r18 --target cpu-ort --data shapes --preset quick --run-dir $(DEMO_RUN) --resume

# Two processes, each with whole files: runs that a file's tests share are made once.
test: install
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

# Builds engines for GPUs that need not be here; several hundred megabytes of packages, a quarter of an hour on two cores.
test-tensorrt: install
	$(BIN)/python -m pip install --quiet '.[tensorrt-rtx]'
	$(BIN)/python -m pytest -m tensorrt
	$(BIN)/python benchmarks/tensorrt_builds.py --output build/tensorrt_builds.json

check: install
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

format: install
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist site
