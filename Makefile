# `make demo` and `make test` do all the set-up they need; `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help install demo test lint format type docs bench clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

# On Linux a plain `torch` brings several GB of CUDA libraries. TORCH=torch takes it all the same.
TORCH ?= torch==2.13.0
$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

install: $(READY) ## create .venv and install everything for development

demo: $(READY) ## train on a real task for a few minutes, then show return, cost and who drove when
	$(BIN)/python examples/demo.py

test: $(READY) ## run the tests
	$(BIN)/python -m pytest -n auto

lint: $(READY) ## check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY) ## rewrite in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

type: $(READY) ## check types
	$(BIN)/mypy

docs: $(READY) ## draw the pictures in docs/ and benchmarks/ anew from their data
	$(BIN)/python benchmarks/draw.py

bench: $(READY) ## measure the time of predict and learn against stock SAC
	$(BIN)/python benchmarks/overhead.py

clean: ## remove what was built
	rm -rf $(VENV) build dist outputs .pytest_cache .ruff_cache .mypy_cache
