# make demo, make test: everything else stands on these. make help lists all.
# The first that runs and is new enough: a version manager's python3.11 may be an empty shim.
PYTHON ?= $(shell for name in python3.11 python3; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
		&& { echo $$name; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help install demo test lint chaos faults fuzz soak clean

help: ## This list
	@grep -E '^[a-z%-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install: $(STAMP) ## A virtual environment in .venv with tidemark and the tools to develop it

# To standard error: `make --silent demo ARGS=--json` prints JSON and nothing else.
$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "tidemark needs Python 3.11 or later: make PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1" >&2
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[postgres,parquet,plot,serve,sign]" --group dev >&2
	@touch $@

demo: install ## Real readings through the whole line, in about a minute (ARGS="--json")
	@$(BIN)/tidemark demo $(ARGS)

test: install lint ## Everything that CI checks (ARGS="-k name")
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal $(ARGS)

lint: install ## Style, types, and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fuzz: install ## Mutated messages through decode (MESSAGES=1000000 ARGS="--seed 8")
	@$(BIN)/python -m tests.fuzz --messages $(or $(MESSAGES),1000000) $(ARGS)

faults: install ## An error at every single step of a poll, a consolidation, a migration
	FAULTS=all $(BIN)/python -m pytest --numprocesses auto --dist worksteal tests/faults $(ARGS)

soak: install ## What a stream process holds over many readings (READINGS=10000000)
	@$(BIN)/python -m benchmarks.soak --readings $(or $(READINGS),10000000) $(ARGS)

bench-%: install ## A benchmark: bench-throughput (ARGS="--json")
	@$(BIN)/python -m benchmarks.$(subst -,_,$*) $(ARGS)

chaos: KILLS ?= 300
chaos: SEED ?= 7
chaos: install ## Kill, stop and cut everything, then look for what was lost (KILLS=300 SEED=7)
	@$(BIN)/python -m tests.chaos --kills $(KILLS) --seed $(SEED) $(ARGS)

clean: ## Remove what was built
	rm -rf $(VENV) build dist tidemark-demo .mypy_cache .ruff_cache .pytest_cache .hypothesis \
		.import_linter_cache
