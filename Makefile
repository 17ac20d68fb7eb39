# Each target works on a fresh clone. make first creates .venv with python3 and the pinned requirements.
PYTHON ?= python3
BIN := .venv/bin
SOURCES := api worker shared deploy tests

.DEFAULT_GOAL := help
.PHONY: help dev demo test test-fast test-cluster soak bench scaling check format lock

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

IS_SUPPORTED := import sys; sys.exit(sys.version_info < (3, 11))
# A .venv whose Python is too old, or was removed from the system, is made again.
ifneq ($(wildcard .venv/installed),)
ifneq ($(shell $(BIN)/python -c '$(IS_SUPPORTED)' >/dev/null 2>&1; echo $$?),0)
.venv/installed: .FORCE
.FORCE: ;
endif
endif

.venv/installed: requirements-dev.txt
	@$(PYTHON) -c '$(IS_SUPPORTED)' || { echo "$(PYTHON) must be Python 3.11 or newer. Name another one: make PYTHON=python3.12 …"; exit 2; }
	[ "$$($(BIN)/python -V 2>&1)" = "$$($(PYTHON) -V 2>&1)" ] || $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet "uv==0.13.*" 2>/dev/null || true
	if [ -x $(BIN)/uv ]; then $(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements-dev.txt; \
	else $(BIN)/python -m pip install --quiet -r requirements-dev.txt; fi
	touch $@

dev: .venv/installed ## run Valkey, an emulated cluster, the API and two workers (ARGS="--workers 4 --port 8002")
	$(BIN)/python -m deploy.local $(ARGS)

demo: .venv/installed ## create, use and delete three sandboxes, and print a table
	$(BIN)/python -m deploy.local --demo $(ARGS)

test: .venv/installed ## run all tests (ARGS="-k name")
	$(BIN)/python -m pytest -n 4 --dist worksteal $(ARGS)

test-fast: .venv/installed ## run the tests that start no process, in under 30 s (ARGS="-k name")
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not process" --hypothesis-profile fast \
		tests/shared tests/api tests/worker $(ARGS)

test-cluster: .venv/installed ## run tests against a real cluster: make test-cluster KUBECONFIG=~/.kube/config
	@test -n "$(KUBECONFIG)" || { echo "make test-cluster KUBECONFIG=FILE: expected the kubeconfig of a real cluster"; exit 2; }
	TEST_KUBECONFIG="$(abspath $(KUBECONFIG))" $(BIN)/python -m pytest -m cluster --timeout 900 $(ARGS)

soak: .venv/installed ## run random clients and faults: make soak SECONDS=600 (ARGS="--seed 7")
	$(BIN)/python -m tests.system.soak --seconds $(or $(SECONDS),600) $(ARGS)

# KUBECONFIG counts only as an argument of make. A variable of the shell must not put load on a real cluster.
bench: .venv/installed ## measure speed beside plain clients, six minutes (N=400 KUBECONFIG=FILE ARGS="--only create reading")
	$(BIN)/python -m tests.bench --json .venv/bench.json $(if $(N),--n $(N)) \
		$(if $(filter command,$(origin KUBECONFIG)),--kubeconfig "$(abspath $(KUBECONFIG))") $(ARGS)

scaling: .venv/installed ## measure creates per second with one, two and four workers, two minutes (ARGS="--rounds 1 --jobs 2")
	$(BIN)/python -m tests.bench.scaling $(ARGS)

check: .venv/installed ## check format, lint, spelling, types and imports
	$(BIN)/ruff format --check --quiet $(SOURCES) || { echo "run: make format"; exit 1; }
	$(BIN)/ruff check --quiet $(SOURCES)
	$(BIN)/codespell $(SOURCES) docs *.md .ci Makefile pyproject.toml docker-compose-dev.yaml
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache > .venv/imports.log || { cat .venv/imports.log; exit 1; }

format: .venv/installed ## format the code, and fix what the linter can fix
	$(BIN)/ruff format --quiet $(SOURCES)
	$(BIN)/ruff check --quiet --fix $(SOURCES)

lock: .venv/installed ## pin the requirements of pyproject.toml, with the hashes of their files
	$(BIN)/uv pip compile -q pyproject.toml --generate-hashes --universal --python-version 3.11 --no-header \
		--no-emit-index-url --no-emit-find-links -o requirements.txt
	$(BIN)/uv pip compile -q pyproject.toml --generate-hashes --extra local --extra dev --universal --python-version 3.11 --no-header \
		--no-emit-index-url --no-emit-find-links -o requirements-dev.txt
