# Two commands on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-long lint docs bench clean
.DEFAULT_GOAL := demo

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "qunetlab needs Python >= 3.11; set PYTHON=/path/to/python3.11")'
	@echo "installing into $(VENV); the first time takes a few minutes"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt "torch==2.13.0"
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev,docs,learning,flower]"
	$(BIN)/qunetlab compile
	@touch $@

demo: $(STAMP)
	$(BIN)/qunetlab demo

# Four files at a time, for two cores: instruments are waited for a third of the time.  Some tests hold real time-outs,
# and a busy machine is no fault: what fails is run again alone.  What ended early (any other code than 1) has failed.
WORKERS ?= 4
test: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder \
		|| { test $$? -eq 1 && $(BIN)/python -m pytest --last-failed --last-failed-no-failures none; }

test-long: $(STAMP)
	-$(BIN)/qunetlab data fetch mnist
	-$(BIN)/qunetlab data fetch sentiment
	$(BIN)/python -m pytest -m "long or not long"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Strict: a link or a heading that is not there ends it (--quiet would keep the warnings from being counted).
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(STAMP)
	$(BIN)/qunetlab bench

clean:
	rm -rf $(VENV) build site *.egg-info .pytest_cache .mypy_cache .ruff_cache
