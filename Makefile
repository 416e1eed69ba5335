# Two commands work on a fresh clone: `make run` and `make test`. Everything they need is set up in .venv on first use.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: run test setup clean

run: $(READY)
	$(BIN)/station run --parts 200

test: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --cache-dir .venv/lint-imports
	$(BIN)/pytest

setup: $(READY)

# torch and torchvision are named together: each version of the one fits exactly one of the other.
$(READY): pyproject.toml constraints.txt drivers/simulated/build.py $(wildcard drivers/simulated/*.[ch] drivers/simulated/*.xml)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch torchvision -e .[train,dev]
	$(BIN)/python -m drivers.simulated.build
	touch $@

clean:
	rm -rf .venv data drivers/simulated/*.cti *.egg-info
