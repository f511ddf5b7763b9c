# Every target works on a fresh machine: what it needs it installs into .venv first.
# `make` alone lists the targets.
SHELL := /bin/bash
VENV  ?= .venv
BIN   := $(VENV)/bin
PY    := $(BIN)/python
STAMP := $(VENV)/.installed
# Most tests wait for servers: three processes on two cores take a third of the time of one.
TEST  := $(PY) -m pytest -n $(or $(JOBS),3) --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help setup demo up test test-fast test-slow fuzz check fmt types imports proto proto-check bench bench-peers bench-scale clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml scripts/setup
	scripts/setup $(VENV)
	@touch $@

setup: $(STAMP) ## Make the virtual environment .venv and install everything into it

demo: $(STAMP) ## Start a cluster, train and publish real models, score through it, kill a scorer, show the figures
	$(BIN)/scoremesh demo

up: $(STAMP) ## Start a local cluster and keep it running until Ctrl-C
	$(BIN)/scoremesh up

test: $(STAMP) ## All tests: unit, property, integration, end to end, failures
	$(TEST)

test-fast: $(STAMP) ## The tests to run on each change: no servers, under a minute
	$(TEST) tests/unit tests/property

test-slow: $(STAMP) ## The tests with real etcd, S3 and clusters, and those that kill things
	$(TEST) tests/integration tests/e2e tests/chaos

fuzz: $(STAMP) ## Damage COUNT models of each format, admit and score them: make fuzz SEED=1 COUNT=2000
	$(PY) -W ignore -m tests.fuzz.fuzz_admission --seed $(or $(SEED),1) --count $(or $(COUNT),2000)

check: $(STAMP) imports types proto-check ## Lint, format, types, import contracts, protos and generated code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

fmt: $(STAMP) ## Format the code and apply safe fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: $(STAMP) ## mypy --strict
	$(BIN)/mypy

imports: $(STAMP) ## Who may import whom
	$(BIN)/lint-imports

proto: $(STAMP) ## Generate the Python code of the protos
	scripts/proto $(PY)

proto-check: $(STAMP) ## Lint the protos, check compatibility with main's, and that the generated code is up to date
	scripts/proto-check $(VENV)

bench: $(STAMP) ## CPU a request of the data path, next to Envoy and to a plain router
	scripts/setup-bench $(VENV)
	$(PY) -m bench.data_path

bench-peers: $(STAMP) ## Beside MLServer, Ray Serve, Triton, BentoML, Envoy: about 15 minutes, once more to install them
	scripts/setup-bench $(VENV)
	$(PY) -m bench.peers $(if $(QUICK),--quick)

bench-scale: $(STAMP) ## With 1,000 to 300,000 models, 3 to 300 members: about 15 minutes, once more to make the models
	scripts/setup-bench $(VENV)
	$(PY) -m bench.scale $(if $(QUICK),--quick)

clean: ## Remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .hypothesis .import_linter_cache
