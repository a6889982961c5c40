# Two commands: `make demo` and `make test`. Everything they need is made on the way.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
PROTOS := $(wildcard protos/*.proto)
PROTOS_COMPILED := $(PROTOS:.proto=_pb2.py)

.PHONY: help install demo test test-all lint lock clean

help: ## Show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(INSTALLED): requirements/lock.txt pyproject.toml
	@$(PYTHON) requirements/check_machine.py
	@echo "Installing the locked packages into $(VENV) (a few minutes the first time) …"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-compile --no-deps --require-hashes -r requirements/lock.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-index -e .
	@touch $@

protos/%_pb2.py: protos/%.proto $(INSTALLED)
	@$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. $<

install: $(INSTALLED) $(PROTOS_COMPILED) ## Create .venv, install the locked packages, compile the protos

demo: install ## Simulate a shop, run the whole chain, serve it and ask it for recommendations
	@$(BIN)/python -m pipeline.demo

lint: install ## ruff and mypy
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

test: lint ## Linters and the quick tests (what CI runs)
	@$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile

test-all: lint ## Linters and all tests, the slow ones included
	@$(BIN)/python -m pytest

lock: ## Resolve requirements/*.in again (needs uv)
	uv pip compile --quiet --generate-hashes --no-emit-index-url --python-version 3.11 \
	  --python-platform x86_64-manylinux_2_28 --no-annotate --custom-compile-command "make lock" \
	  -o requirements/lock.txt requirements/runtime.in requirements/dev.in

clean: ## Remove .venv, compiled protos and the demo's run
	rm -rf $(VENV) runs/demo protos/*_pb2.py protos/*_pb2.pyi
