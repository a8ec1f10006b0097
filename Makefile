# Needs Python 3.11 or newer and make. uv is used where it is installed; without it, venv and pip install
# the same locked versions from requirements/dev.txt.

PYTHON  ?= python3
ARGS    ?=
WORKERS ?= 3

VENV  := .venv
BIN   := $(VENV)/bin
READY := $(VENV)/.ready
UV    := $(shell command -v uv 2>/dev/null)
EXPORT := uv export --frozen --quiet --no-header --no-emit-project --format requirements-txt

.DEFAULT_GOAL := help
.PHONY: help demo serve test test-long lint bench requirements sbom clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo '  Pass options through ARGS, as in: make demo ARGS="--once --json"'

$(READY): pyproject.toml uv.lock requirements/dev.txt
ifneq ($(UV),)
	@uv sync --frozen --quiet 1>&2
else
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed.") if sys.version_info < (3, 11) else None'
	@$(PYTHON) -m venv $(VENV) 1>&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt 1>&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable . 1>&2
endif
	@touch $@

demo: $(READY) ## Rotate keys of four simulated providers under load, then keep the console open
	@$(BIN)/keyturn demo $(ARGS)

serve: $(READY) ## Run Keyturn with its embedded defaults; the data is kept in var/
	@$(BIN)/keyturn serve $(ARGS)

test: $(READY) ## Run the whole suite on SQLite and then on PostgreSQL
	@status=0; \
	for database in sqlite postgresql; do \
	  echo "--- the suite on $$database"; \
	  KEYTURN_TEST_DATABASE=$$database $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadgroup $(ARGS) || status=1; \
	done; \
	if [ $$status -eq 0 ]; then echo "RESULT: passed on SQLite and on PostgreSQL"; \
	else echo "RESULT: FAILED, see above"; fi; \
	exit $$status

test-long: $(READY) ## Do much more of what is random or raced, on both databases; takes hours
	@status=0; \
	for database in sqlite postgresql; do \
	  echo "--- the long tests on $$database"; \
	  KEYTURN_TEST_LONG=1 KEYTURN_TEST_DATABASE=$$database $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadgroup -m long $(ARGS) \
	    || status=1; \
	done; exit $$status

lint: $(READY) ## Check style, types, import rules, migrations and the exported requirements
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	KEYTURN_DATA=$$(mktemp -d) KEYTURN_ENV_FILE=/dev/null $(BIN)/python manage.py makemigrations --check --dry-run
ifneq ($(UV),)
	$(EXPORT) | diff - requirements/dev.txt
	$(EXPORT) --only-group bench | diff - requirements/bench.txt
endif

bench: $(READY) ## Measure Keyturn beside OpenBao, both started for it (docs/benchmarks.md)
ifneq ($(UV),)
	@uv sync --frozen --quiet --group bench 1>&2
else
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bench.txt 1>&2
endif
	@$(BIN)/python -m benchmarks $(ARGS)

requirements: ## Export uv.lock for those who install with pip
	$(EXPORT) --output-file requirements/dev.txt >/dev/null
	$(EXPORT) --only-group bench --output-file requirements/bench.txt >/dev/null
	$(BIN)/python -m tests.dependencies

sbom: $(READY) ## Write sbom.cdx.json: every package of an installation, with versions and hashes (needs uv)
	uv export --frozen --quiet --no-dev --all-extras --format cyclonedx1.5 --output-file sbom.cdx.json >/dev/null

clean: ## Remove the virtual environment and caches; the data in var/ stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
