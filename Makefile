# The same targets for people and for CI. `make demo` is the place to start.

PYTHON ?= python3
PYTEST_ARGS ?=
BIN := .venv/bin
READY := .venv/.ready

# Folders without Python yet would be an error to the checkers.
FOLDERS := $(patsubst %/,%,$(sort $(dir $(wildcard $(addsuffix /*.py,segformer pipeline jobs tests bench deploy examples)))))

.DELETE_ON_ERROR:
.PHONY: help venv demo test test-slow check bench format docs

help:
	@echo 'make demo       segment a picture of the world and ask for the area of the oceans'
	@echo 'make test       the tests, 7 to 8 minutes on 2 cores; PYTEST_ARGS="-k query" picks some'
	@echo 'make test-slow  the tests that take longer: real deaths, outages, clusters'
	@echo 'make check      format, lint and types'
	@echo 'make bench      the engine beside what people run otherwise: some 60 minutes on 2 cores'
	@echo 'make format     put the code into shape'
	@echo 'make docs       write docs/cli.md, docs/tables.md and the tables of docs/speed.md again'
	@echo 'make venv       only install into .venv; PYTHON=python3.12 picks the Python'

venv: $(READY)

# Installed again only when what is to be installed has changed.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo 'Swath needs Python 3.11 or newer; $(PYTHON) is' "$$($(PYTHON) --version 2>&1)."; \
	  echo 'Name another one: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)'; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo 'Installing into .venv: some minutes and about 2 GB the first time.' >&2
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,demo]'
	@touch $@

demo: $(READY)
	$(BIN)/python -m examples.bluemarble.demo

PYTEST = $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: $(READY)
	$(PYTEST) -m 'not slow' $(PYTEST_ARGS)

test-slow: $(READY)
	$(PYTEST) -m slow --timeout 900 $(PYTEST_ARGS)

check: $(READY)
	$(BIN)/ruff format --check $(FOLDERS)
	$(BIN)/ruff check $(FOLDERS)
	$(BIN)/mypy $(filter-out tests,$(FOLDERS)) tests/support

bench: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python -m bench.speed.forward --size b0
	$(BIN)/python -m bench.speed.forward --size b2
	$(BIN)/python -m bench.speed.dtypes
	$(BIN)/python -m bench.speed.blend
	$(BIN)/python -m bench.speed.sliding --sides ours mmseg-style MONAI
	$(BIN)/python -m bench.speed.sliding --size 2048 --classes 150
	$(BIN)/python -m bench.speed.whole --work .bench

format: $(READY)
	$(BIN)/ruff format $(FOLDERS)
	$(BIN)/ruff check --fix $(FOLDERS)

docs: $(READY)
	$(BIN)/python -m jobs.reference docs/cli.md
	$(BIN)/python -m jobs.tables_reference docs/tables.md
	$(BIN)/python -m bench.speed.page docs/speed.md
