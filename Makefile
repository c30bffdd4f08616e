# `make demo` and `make test` do all the set-up on a machine that has only Python >= 3.11.
PYTHON ?= python3
VENV := .venv
JOBS ?= 2
BIN := $(VENV)/bin
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
PINS := $(wildcard constraints/py$(VERSION).txt)

.PHONY: demo test test-all notebooks check docs package clean

demo: $(VENV)/base
	$(BIN)/lth run digits --controls reinit,shuffle

# Each worker takes a file at a time, for tests of one share what they compile.
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

# All but the long ones and the notebooks, which take most of the time.
test: $(VENV)/test
	$(PYTEST) -m "not long" --ignore tests/test_notebooks.py

# The notebooks from top to bottom; each file of tests is one worker's, so not by file.
notebooks: $(VENV)/test
	$(BIN)/python -m pytest -n $(JOBS) tests/test_notebooks.py

# As they are named: the file of the notebooks, few and long, is not left for last.
test-all: $(VENV)/test
	$(PYTEST)

# What CI runs beside the tests.
check: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

# The site, in docs/built/html; a warning is an error.
docs: $(VENV)/dev
	$(BIN)/python -m sphinx -q -W --keep-going -d docs/built/read docs docs/built/html
	$(BIN)/python -m pytest tests/test_site.py

# The wheel and the sdist, checked, and each tried in an empty environment.
package:
	PYTHON=$(PYTHON) packaging/release.sh

clean:
	rm -rf $(VENV) docs/built docs/made dist

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lth needs Python 3.11 or newer; say which with PYTHON=")'
	$(PYTHON) -m venv $(VENV)

# Each marker file says that an extra is installed as pyproject.toml and the pins have it.
$(VENV)/base: EXTRA :=
$(VENV)/test: EXTRA := [test]
$(VENV)/dev: EXTRA := [dev]
$(VENV)/base $(VENV)/test $(VENV)/dev: pyproject.toml $(PINS) | $(BIN)/python
	$(BIN)/python -m pip install --quiet $(PINS:%=-c %) -e '.$(EXTRA)'
	touch $@
