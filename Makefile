# Everything a developer runs. Each target sets up what it needs: a virtual environment in .venv, made once and
# brought up to date when pyproject.toml changes. After that nothing here needs the network.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
BENCHMARKS := insert import files load query column overlay segments restart revent cluster

.PHONY: help demo test lint fuzz format crash chaos clean $(BENCHMARKS:%=bench-%)

help:
	@echo "make demo          load two sample data sets into a daemon and ask them questions"
	@echo "make test          ruff, mypy, import-linter, pytest"
	@echo "make lint          the same without pytest"
	@echo "make bench-insert  events per second into a daemon, durable, through HTTP"
	@echo "make bench-import  events per second of openset import, by format"
	@echo "make bench-files   bytes, scans and compaction of a partition file of ten million events"
	@echo "make bench-load    bytes rewritten while ten million events come in, and what compactions do to latency"
	@echo "make bench-query   query times over a million events"
	@echo "make bench-column  times of column queries over a million people"
	@echo "make bench-overlay times of one person, everyone and a trigger, each after an insert"
	@echo "make bench-segments  segments over a million people"
	@echo "make bench-restart  from the start of a daemon to its first answer"
	@echo "make bench-revent  what triggers cost, and how soon they tell"
	@echo "make bench-cluster  a node that joins a cluster, against curl; how soon a killed owner is replaced"
	@echo "make fuzz          random scripts, the engine against the interpreter, for SECONDS=600"
	@echo "make crash         a daemon killed ROUNDS=100 times; power failures and faults at every step (SEED=1)"
	@echo "make chaos         five nodes under faults of all kinds for SECONDS=600 (SEED=1)"
	@echo "make format        rewrite the sources in the project's style"
	@echo "make clean         remove .venv and caches"

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "OpenSet needs Python 3.11 or newer; say which with: make PYTHON=python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "Python's venv is missing. On Debian: apt install python3-venv" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@$(BIN)/python -m compileall -q openset format tools
	@touch $@

demo: $(READY)
	@$(BIN)/python -m openset.demo

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/pytest -n 2

format: $(READY)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

fuzz: $(READY)
	$(BIN)/python tests/fuzz.py --seconds $(or $(SECONDS),600)

crash: $(READY)
	$(BIN)/python tests/support/kill_loop.py --rounds $(or $(ROUNDS),100) $(if $(SEED),--seed $(SEED))
	OPENSET_CRASH_MOMENTS=all $(BIN)/pytest -q -n 2 --timeout 0 tests/crash

chaos: $(READY)
	$(BIN)/python tests/support/chaos/run.py --seconds $(or $(SECONDS),600) $(if $(SEED),--seed $(SEED))

$(BENCHMARKS:%=bench-%): bench-%: $(READY)
	@mkdir -p build
	$(BIN)/python -m openset_tools.bench_$* --directory build

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
