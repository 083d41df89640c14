# make run    a whole fleet on this machine: control plane, tunnel, one demo device
# make test   everything that must hold: lint, types, tests against real servers
# make check  the fast half: format, lint, types, import directions
# make bench  performance claims as ratios

.DEFAULT_GOAL := help
.PHONY: help run test check bench docs setup-run setup-test
BIN := .venv/bin
# The tests are shuffled by this number; what was seen with it is seen again with `make test SEED=...`.
SEED := $(shell date +%s)
# Tests wait for servers, devices and cables more than they compute; those of one file stay together, the longest come first.
WORKERS := 3

help:
	@sed -n 's/^# make/make/p' Makefile

setup-run:
	@scripts/setup.sh run

setup-test:
	@scripts/setup.sh test

run: setup-run
	@$(BIN)/meetingctl demo $(ARGS)

check: setup-test
	$(BIN)/ruff format --check src tests bench
	$(BIN)/ruff check src tests bench
	$(BIN)/mypy
	$(BIN)/pytest tests/test_imports.py

test: check
	$(BIN)/pytest --randomly-seed=$(SEED) --numprocesses=$(WORKERS) --dist=loadfile --no-loadscope-reorder $(ARGS)

bench: setup-test
	$(BIN)/python bench/run.py $(ARGS)

docs: setup-run
	$(BIN)/python -m meetingctl.cli.generate
