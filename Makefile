# `make quickstart` and `make test` are all that a new user needs; each makes .venv if it is missing.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

.PHONY: quickstart test lint venv clean

quickstart: venv  ## run the whole way on text that Python carries
	$(BIN)/blt run configs/quickstart.yaml

# The tests of models, layers and engine; most of JAX's time is compiling, so it
# leaves out most optimizations; PyTorch's run only where it is installed. Two processes share the tests.
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist worksteal
MODEL_TESTS := tests/blt/layers tests/blt/model tests/blt/engine tests/blt/generation

test: venv  ## the whole test suite that CI runs
	$(PYTEST)
	KERAS_BACKEND=jax JAX_DISABLE_MOST_OPTIMIZATIONS=1 $(PYTEST) $(MODEL_TESTS)
	if $(BIN)/python -c 'import torch' 2>/dev/null; then KERAS_BACKEND=torch $(PYTEST) $(MODEL_TESTS); fi

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

venv: $(STAMP)

$(STAMP): constraints.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(None if (3, 10) <= sys.version_info < (3, 13) else "Python 3.10, 3.11 or 3.12 is needed, and this is " + sys.version.split()[0] + ". Say which to use: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) build *.egg-info
