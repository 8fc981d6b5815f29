# `make demo` and `make test` do all the set-up they need; `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help install demo test lint format type docs pictures bench dist clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

# The tested version; the CPU build of it where PIP_EXTRA_INDEX_URL names an index that has one, as on PyTorch's page: on Linux,
# others bring several GB of CUDA libraries. TORCH=torch takes the newest.
TORCH ?= torch==2.13.0
$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

install: $(READY) ## create .venv and install everything for development

demo: $(READY) ## train on a real task for a few minutes, then show return, cost and which sub-policy acted when
	$(BIN)/python examples/demo.py

test: $(READY) ## run the tests
	$(BIN)/python -m pytest -n auto

lint: $(READY) ## check style, and that each module imports only what stands below it
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

format: $(READY) ## rewrite in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

type: $(READY) ## check types
	$(BIN)/mypy

docs: $(READY) ## build the documentation into docs/_build/html
	$(BIN)/python -m sphinx -W --keep-going -q docs docs/_build/html
	@echo "Documentation: docs/_build/html/index.html"

pictures: $(READY) ## draw the pictures and write the tables in README and docs/ anew from benchmarks/results
	$(BIN)/python benchmarks/draw.py

bench: $(READY) ## measure the time of predict and learn against stock SAC
	$(BIN)/python benchmarks/overhead.py

# No -e and no source tree on the path: what is tried is the wheel.
dist: $(READY) ## build sdist and wheel, check them, and try the wheel in an empty environment
	rm -rf dist build/wheel
	$(BIN)/python -m build --outdir dist
	$(BIN)/twine check --strict dist/*
	$(PYTHON) -m venv build/wheel
	build/wheel/bin/python -m pip install --quiet "$(TORCH)"
	build/wheel/bin/python -m pip install --quiet "$$(echo dist/*.whl)[cli]"
	build/wheel/bin/python -I .ci/try_wheel.py

clean: ## remove what was built
	rm -rf $(VENV) build dist docs/_build outputs .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
