# Needs python3 (3.11 or later) and make; .venv is made and filled on the way.
PYTHON ?= python3
# How long to fuzz: 30s, 10m, 8h.
TIME ?= 60s
# interpret or gpu; empty: a GPU where there is one.
BACKEND ?= $(LANE)
# Further arguments of the command behind the target: make test ARGS="-k verify"
ARGS ?=
# Extras of pyproject.toml that the environment should hold: make fuzz EXTRAS=test,fla
EXTRAS ?= test
# Another torch than tools/bootstrap.py would choose, as pip spells it: make test TORCH="torch==2.12.0"
TORCH ?=
# Anything: the versions of requirements.lock, where any that fit would do otherwise: make lint LOCKED=1
LOCKED ?=

BIN := .venv/bin
ifneq ($(BACKEND),)
export DIFFGDN_BACKEND := $(BACKEND)
endif

BOOTSTRAP = $(PYTHON) tools/bootstrap.py --torch "$(TORCH)" $(if $(LOCKED),--locked)

.PHONY: help setup fuzz test lint docs scoreboard coverage lock clean

help:
	@echo "make fuzz   check kernels against the oracle for TIME=$(TIME)  [BACKEND=interpret|gpu] [EXTRAS=test,fla] [ARGS=...]"
	@echo "make test   replay the corpus, then all tests                [BACKEND=interpret|gpu] [ARGS=...]"
	@echo "make lint   ruff, mypy and who imports whom"
	@echo "make docs   the pages as a site, in docs/_build/html"
	@echo "make scoreboard  docs/scoreboard.md from docs/scoreboard/ and docs/defects.toml  [ARGS=probe.json]"
	@echo "make coverage  all tests, and what they reached      [ARGS=...]"
	@echo "make setup  .venv alone; every target above does this first  [LOCKED=1]"
	@echo "make lock   the newest versions into requirements.lock"
	@echo "make clean  remove .venv, builds and caches; findings stay"

setup:
	@$(BOOTSTRAP) $(EXTRAS)

fuzz: setup
	@$(BIN)/diffgdn fuzz --max-time $(TIME) $(ARGS)

test: setup
	@$(BIN)/python -m pytest -n auto --hypothesis-profile=ci $(ARGS)

# Every tool has its say. lint-imports reads the one package that typecheck.sh lays out.
lint:
	@$(BOOTSTRAP) lint
	@status=0; \
	$(BIN)/ruff check . || status=1; \
	$(BIN)/ruff format --check . || status=1; \
	tools/typecheck.sh || status=1; \
	(cd build/typecheck && ../../$(BIN)/lint-imports --no-logo ../../pyproject.toml) || status=1; \
	exit $$status

# -n: every name is known; -W: a warning is an error, once all are told.
docs:
	@$(BOOTSTRAP) docs
	@$(BIN)/python -m sphinx -q -n -W --keep-going -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

scoreboard: setup
	@$(BIN)/diffgdn scoreboard $(ARGS)

coverage:
	@$(BOOTSTRAP) test,coverage
	@$(BIN)/python -m pytest -n auto --hypothesis-profile=ci --cov --cov-report= $(ARGS)
	@$(BIN)/python -m coverage report
	@$(BIN)/python -m coverage json -q -o coverage.json
	@$(BIN)/python tools/coverage_by_folder.py coverage.json

# uv alone is needed for it, and only here.
lock:
	@$(BOOTSTRAP) lock
	@$(BIN)/python tools/lock.py

clean:
	rm -rf docs/_build .coverage .coverage.* coverage.json
	rm -rf .venv build dist diffgdn.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
