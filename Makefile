# Two commands set up a fresh machine: `make demo` (the main job) and `make test`.
#   TORCH_INDEX=URL   another wheel index for torch, for example the CPU-only one (see README)
#   PYTHON=python3.12 another interpreter, 3.11 or later

PYTHON ?= python3
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test prove check format clean
.DELETE_ON_ERROR:

demo: $(VENV)/installed
	$(BIN)/efficientllm run quickstart

test: check
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not prove" --ignore tests/house

prove: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n 2 -m prove tests --timeout 1100

check: $(VENV)/installed-dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/house

format: $(VENV)/installed-dev
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

$(VENV)/installed: requirements/torch.txt requirements/run.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "efficientllm needs Python 3.11 or later; this is %d.%d. Say which with PYTHON=python3.12." % sys.version_info[:2])'
	@echo "Setting up $(VENV). This downloads, once:"
	@echo "  torch (about 200 MB for CPUs; with CUDA about 3 GB on Linux, see TORCH_INDEX in the README)"
	@echo "  transformers, peft, tokenizers, numpy, scipy and what they need (about 150 MB)"
	@echo "No data and no model is downloaded."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) -r requirements/torch.txt
	$(PIP) install -r requirements/run.txt
	$(PIP) install --no-deps -e .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements/dev.txt
	@echo "Adding what the tests need: ruff, mypy, pytest, hypothesis (about 40 MB), on Linux triton (about 200 MB)"
	$(PIP) install -r requirements/dev.txt
	@touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
