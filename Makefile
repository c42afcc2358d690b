# `make demo` and `make test` are all the set-up there is: each creates .venv and installs what it needs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test lint format benchmark docs clean

demo: $(VENV)/.demo
	$(BIN)/refbench demo --out demo-output

test: lint
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p refbench
	$(BIN)/mypy benchmarks
	$(BIN)/mypy docs/site

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Prints ratios measured on this machine; nothing asserts them.
benchmark: $(VENV)/.dev
	for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

# The docs site, in build/site. The variable silences the theme's remark on its own future.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# What is installed is older than what is asked for: install again. The .dev set includes the others.
$(VENV)/.demo: $(VENV)/bin/python pyproject.toml constraints.txt
	@rm -rf *.egg-info  # an older one would shadow the entry points
	@if [ ! -e $(VENV)/.dev ]; then echo "Installing the core, the learned metrics and generators (torch: several GB) into $(VENV) …"; $(INSTALL) --editable '.[metrics,baselines]'; fi
	@touch $@

$(VENV)/.docs: $(VENV)/bin/python pyproject.toml constraints.txt
	@rm -rf *.egg-info
	@if [ ! -e $(VENV)/.dev ]; then echo "Installing the core and the docs tools into $(VENV) …"; $(INSTALL) --editable '.[docs]'; fi
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "Installing the core, the learned metrics and generators (torch: several GB) and the development tools into $(VENV) …"
	@rm -rf *.egg-info
	@$(INSTALL) --editable '.[metrics,refalign,ray,dev]'
	@touch $@

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "refalign-bench needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) demo-output build *.egg-info .pytest_cache .mypy_cache .ruff_cache
