# `make` lists the targets. Everything runs in .venv, made from requirements.lock.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true
export GX_ANALYTICS_ENABLED := false
export ORT_DISABLE_TELEMETRY := 1

# More options of pip, such as an index with wheels of torch for machines without a GPU (README).
PIP_OPTIONS ?=

.PHONY: help environment data reproduce show test test-fast lint types check stress mutation benchmarks docs pictures clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.venv/.complete: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, $(PYTHON) is older. Run: make PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv .venv
	@echo "Installing $$(grep -c == requirements.lock) packages into .venv; sizes: README.md"
	.venv/bin/python -m pip install --disable-pip-version-check $(PIP_OPTIONS) --requirement requirements.lock
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

environment: .venv/.complete ## make .venv with the locked versions

data: .venv/.complete ## pull the crops that data.dvc names
	dvc pull --quiet data.dvc

reproduce: data ## environment, data, pipeline, a model in production, predictions shown
	dvc repro
	@$(MAKE) --no-print-directory show

show: .venv/.complete ## show the production model and its answers to a few test crops
	@supcam show

test: .venv/.complete ## all tests with seeded slices of the exhaustive checks
	pytest -m "not stress" -n 2 --dist loadfile --no-loadscope-reorder

test-fast: .venv/.complete ## tests that train nothing and start no servers, in under a minute
	pytest -m "not stress and not slow" -n 2 --dist loadfile --no-loadscope-reorder -q

lint: .venv/.complete ## ruff: rules and format
	ruff check .
	ruff format --check .

types: .venv/.complete ## mypy, strict
	mypy

check: lint types test ## lint, types and tests

stress: .venv/.complete ## the full counts of the exhaustive checks, as JSON
	python -m benchmarks.stress

# One module: make mutation MODULES=supcam.losses.margin; all mutants instead of 100 a module: OPTIONS="--sample 0".
mutation: .venv/.complete ## how many changes to the code the tests notice, a JSON line a module
	OMP_NUM_THREADS=1 python -m benchmarks.mutation $(MODULES) $(OPTIONS)

benchmarks: .venv/.complete ## every benchmark, as JSON lines
	@for name in composition pretraining data tuning inference serving; do python -m benchmarks.$$name || exit 1; done

docs: .venv/.complete ## the documentation as a site in reports/site; a dead link is an error
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet --site-dir reports/site
	@echo "reports/site/index.html"

pictures: .venv/.complete ## draw the pictures of the README again (after make reproduce)
	python -m docs.pictures

clean: ## remove tool caches, pages and the folders of experiments (reports/, runs/)
	rm -rf .pytest_cache .mypy_cache .ruff_cache reports runs
