# Every command that a contributor or CI runs. `make help` lists them.
SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

UV := build/uv/bin/uv
PYTHON := .venv/bin/python
CODE := operator tests charts docs

# Of `make demo`: a cluster that exists already, and where its nodes can pull images from.
CONTEXT ?=
IMAGE_REPOSITORY ?=

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z][a-z0-9-]*:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(UV): images/uv.txt
	@echo "==> uv (seconds)"
	@python3 -m venv build/uv
	@build/uv/bin/pip install --quiet --require-hashes --requirement images/uv.txt
	@touch $@

.venv/.done: tests/requirements.txt pyproject.toml | $(UV)
	@echo "==> Python environment (about 30 s, some minutes where torch has to be downloaded first)"
	@$(UV) venv --quiet --allow-existing --python 3.11 .venv
	@$(UV) pip sync --quiet --python $(PYTHON) --require-hashes tests/requirements.txt
	@$(UV) pip install --quiet --python $(PYTHON) --no-deps --editable .
	@touch $@

.PHONY: venv
venv: .venv/.done ## Make the Python environment

.PHONY: demo
demo: venv ## Everything from an empty machine to an answered request (CONTEXT=… IMAGE_REPOSITORY=… for your own cluster)
	@$(PYTHON) -m tests.e2e.demo $(if $(CONTEXT),--context "$(CONTEXT)") $(if $(IMAGE_REPOSITORY),--image-repository "$(IMAGE_REPOSITORY)")

.PHONY: test
test: lint verify cluster-build images ## Every test, as CI runs them
	@$(PYTHON) -m tests.cluster build kwok flux kubeconform
	@$(PYTHON) -m pytest tests --numprocesses 3 --no-loadscope-reorder

.PHONY: test-scoped
test-scoped: venv cluster-build ## The tests on a real API server with an operator that has Roles in a list of namespaces only (10 minutes)
	@$(PYTHON) -m tests.cluster build kwok
	@$(PYTHON) -m pytest tests/integration --scoped

.PHONY: unit
unit: venv ## The fast tests: pure functions, golden files, the chart
	@$(PYTHON) -m pytest tests/unit

.PHONY: bench-export
bench-export: venv ## Our export's time and memory against the guide's bare script (4 minutes on a quiet machine)
	@$(PYTHON) -m tests.bench.export

.PHONY: load-test
load-test: venv ## The server at twice what it can do, each answer compared with eager's (MINUTES=10; build/bench/load.json)
	@$(PYTHON) -m tests.bench.load --minutes $(or $(MINUTES),10)

# The oldest Transformers that the export takes: it unties, traces and names what is missing otherwise than version 5.
build/transformers-4/.done: pyproject.toml | $(UV)
	@echo "==> Python environment with Transformers 4 (about a minute)"
	@$(UV) venv --quiet --allow-existing --python 3.11 build/transformers-4
	@$(UV) pip install --quiet --python build/transformers-4/bin/python --editable '.[export,serve]' \
		transformers==4.57.6 pytest pytest-timeout pytest-asyncio hypothesis httpx
	@touch $@

.PHONY: test-transformers-4
test-transformers-4: build/transformers-4/.done ## The tests of tasks, architectures and untying, with Transformers 4
	@build/transformers-4/bin/python -m pytest -p no:cacheprovider tests/unit/test_untie.py tests/contract/test_tasks*.py \
		tests/contract/test_export_architectures.py

.PHONY: lint
lint: venv ## Style, types and the walls between rooms
	@.venv/bin/ruff check $(CODE)
	@.venv/bin/ruff format --check $(CODE)
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-logo | tail -n 3

.PHONY: format
format: venv ## Format the code and mend what can be mended
	@.venv/bin/ruff check --fix $(CODE)
	@.venv/bin/ruff format $(CODE)

.PHONY: generate
generate: venv ## Make generated files again: the CRD, the chart's copy of it and README, the gRPC messages, tables of the docs
	@$(PYTHON) charts/generate.py
	@$(PYTHON) -m tests.cluster.chart_readme
	@$(PYTHON) operator/generate_protocol.py
	@$(PYTHON) docs/generate.py

.PHONY: docs
docs: venv ## Build the documentation in build/site, strictly: a link that leads nowhere is an error
	@NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict

.PHONY: verify
verify: venv ## Fail where a generated file is not what it is generated from
	@$(PYTHON) charts/generate.py --check
	@$(PYTHON) -m tests.cluster.chart_readme --check
	@$(PYTHON) operator/generate_protocol.py --check
	@$(PYTHON) docs/generate.py --check

.PHONY: lock
lock: $(UV) ## Resolve and lock all requirements again
	@images/lock.sh $(UV)

.PHONY: screenshots
screenshots: venv ## Pictures of the dashboard for the docs, and how long it takes to draw 500 models
	@$(PYTHON) -m tests.contract.dashboard_pictures

.PHONY: bench-operator
bench-operator: venv ## What the operator costs at 100, 1,000 and 10,000 models (about an hour; BENCH=--quick: 100 and 1,000)
	@$(PYTHON) -m tests.cluster build kubernetes etcd helm kwok
	@$(PYTHON) -m tests.bench.operator $(BENCH)

.PHONY: bench-serve
bench-serve: venv ## Our server against FastAPI, infinity, LitServe, BentoML, TorchServe, KServe (half an hour; BENCH=--quick: some minutes)
	@$(PYTHON) -m tests.bench.serve $(BENCH)

.PHONY: images
images: venv ## Build the operator's and the worker's image (about 3 minutes, seconds after a change of code)
	@$(PYTHON) -m tests.cluster.images build

.PHONY: cluster-build
cluster-build: venv ## Build Kubernetes and its companions (about 12 minutes, once for each version)
	@$(PYTHON) -m tests.cluster build

.PHONY: cluster-up
cluster-up: venv ## Start the embedded cluster, or repair it
	@$(PYTHON) -m tests.cluster up

.PHONY: cluster-down
cluster-down: venv ## Remove the embedded cluster and all that it left on this machine
	@$(PYTHON) -m tests.cluster down
