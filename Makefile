# Two commands do everything: `make demo` and `make test`. Each sets up what it needs; neither asks for root.
SHELL := /bin/bash
BIN := .venv/bin
GROUP ?= main
unexport PYTHONDONTWRITEBYTECODE  # a run of the tests starts hundreds of processes: they share what one has compiled

.PHONY: demo test compiled check faults mutants soak bench-deliver bench-process bench-e2e bench-ledger bench-tables bench-transport lock clean

.venv/ready: requirements.lock pyproject.toml
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Trunkline needs Python 3.11 or newer as python3." >&2; exit 2; }
	@python3 -c 'import ensurepip' 2>/dev/null || { echo "Python has no venv module; install it: apt-get install python3-venv" >&2; exit 2; }
	@test -x $(BIN)/python || python3 -m venv .venv
	@echo "installing what Trunkline needs into .venv …" >&2
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable .
	@touch $@

demo: .venv/ready  ## the main job on real input: sales in, stock movements and campaign signals out
	@$(BIN)/trunkline --env dev.env demo run producers.examples.complete_journey:scenario

test: .venv/ready  ## everything that must hold, on a real broker, in less than five minutes
	@$(MAKE) --no-print-directory --jobs 2 check compiled
	@$(BIN)/pytest -n 6 --dist loadgroup -m "not faults"

compiled: .venv/ready  # by one, while the other core checks, and not by each of six that start together
	-@$(BIN)/pytest --collect-only -qq >/dev/null

check: .venv/ready  ## what can be said without running anything
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

faults: .venv/ready  ## processes and broker killed under load: make faults GROUP=main
	@$(BIN)/pytest tests --group $(GROUP) -s $(if $(filter deliver targets,$(GROUP)),-n 2 --dist loadgroup)

mutants: .venv/ready  ## planted defects, each caught by the fault case that is named for it
	@$(BIN)/python -m tests.trunkline.mutants

soak: .venv/ready  ## a million schedules of faults through the engine's decisions: docs/soak.md has the result
	@$(BIN)/python -m tests.trunkline.simulator --first 1000000 --schedules 1000000 --cores 2 --soak docs/soak.md

bench-deliver: .venv/ready  ## delivering beside its peers, in half an hour: build/bench/deliver.json, benchmarks/RESULTS.md
	@$(BIN)/python -m benchmarks.deliver

bench-process: .venv/ready  ## processing beside its peers, in half an hour: build/bench/process.json, benchmarks/RESULTS.md
	@$(BIN)/python -m benchmarks.process

bench-e2e: .venv/ready  ## from a POST at the gateway to its effect at the target: build/bench/e2e.json, benchmarks/RESULTS.md
	@$(BIN)/python -m benchmarks.end_to_end

bench-ledger: .venv/ready  ## look-up and record on ten million rows, SQLite and PostgreSQL: build/bench/ledger.json, benchmarks/RESULTS.md
	@$(BIN)/python -m benchmarks.ledger

bench-tables: .venv/ready  ## rows of a table ready at a first start and the next, and asked for: build/bench/tables.json
	@$(BIN)/python -m benchmarks.tables

bench-transport: .venv/ready  ## the way to a target beside bare HTTP clients: build/bench/transport.json, benchmarks/RESULTS.md
	@$(BIN)/python -m benchmarks.transport

lock: .venv/ready  ## write requirements.lock anew (needs uv)
	uv pip compile pyproject.toml --group dev --generate-hashes --no-emit-index-url --no-annotate --python-version 3.11 --universal -o requirements.lock

clean:  ## remove everything that was made here
	-@test ! -x $(BIN)/trunkline || $(BIN)/trunkline broker down
	rm -rf .venv build dist var
