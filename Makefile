# make run    a whole fleet on this machine: control plane, tunnel, one demo device
# make test   everything that must hold: lint, types, tests against real servers
# make check  the fast half: format, lint, types, import directions
# make bench  performance claims as ratios

.DEFAULT_GOAL := help
.PHONY: help run test check bench docs setup-run setup-test
BIN := .venv/bin

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
	$(BIN)/pytest $(ARGS)

bench: setup-test
	$(BIN)/python bench/run.py $(ARGS)

docs: setup-run
	$(BIN)/python -m meetingctl.cli.generate
