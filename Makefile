# Two commands set everything up: `make bench` runs the main job, `make test` the tests.
VENV ?= .venv
PYTHON ?= python3

.PHONY: bench test check clean

$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet --editable '.[dev]'
	touch $@

bench: $(VENV)/ready
	$(VENV)/bin/stabilgan bench --tricks replay,minibatch

test: $(VENV)/ready
	$(VENV)/bin/python -m pytest -m 'not gpu' -n 2

check: $(VENV)/ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

clean:
	rm -rf $(VENV) results
