# make demo: see it work.  make test, make check: before a commit.  make bench: speed (docs/performance.md).
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: env demo test check format bench clean

env: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("needs Python 3.11 or newer: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	$(BIN)/uv pip install --python $(BIN)/python -c constraints.txt -b constraints.txt -e '.[dev]'
	@touch $@

demo: env
	@$(BIN)/invdiff demo --overwrite

test: env
	@$(BIN)/python -m pytest $(ARGS)

check: env
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

format: env
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

bench: env
	@$(BIN)/python experiments/speed/peers.py $(ARGS)
	@$(BIN)/python experiments/speed/scaling.py
	@$(BIN)/python experiments/speed/harness.py

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
