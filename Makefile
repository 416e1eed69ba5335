# Two commands work on a fresh clone: `make run` and `make test`. Everything they need is set up in .venv on first use.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: run test setup accuracy bench faults soak measure measure-training demo-weights clean

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
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch torchvision -e .[train,openvino,dev]
	$(BIN)/python -m drivers.simulated.build
	touch $@

clean:
	rm -rf .venv data drivers/simulated/*.cti *.egg-info

# What the demo's networks are worth: 2,000 parts of each product that they never saw. Some minutes.
accuracy: $(READY)
	$(BIN)/python tests/measure_demo.py

# How fast this machine is, as ratios to the peers in one run: the paper's network, the one that phase 1 makes, the whole line. Ten minutes.
bench: $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .[bench]
	$(BIN)/python -m station.bench.network --device cpu --trunks 4
	$(BIN)/python -m station.bench.network --device cpu --trunks 4 --precision int8
	$(BIN)/python -m station.bench.network --device cpu --trunks 1 --precision int8
	$(BIN)/station bench

# What an answer takes on the wire in each dialect and role, and an audit of ten million rows (4 GB of disk). A quarter of an hour.
measure: $(READY)
	$(BIN)/python tests/measure_wire.py
	$(BIN)/python tests/measure_ledger.py

# What phase 1 costs beside a literal one: make measure-training DATA=pictures PRETRAINED=vgg16.safetensors. A quarter of an hour.
measure-training: $(READY)
	$(BIN)/python tests/measure_training.py $(DATA) $(PRETRAINED)

# The demo's networks from nothing: draws their training parts, trains, and writes weights and recipes.
demo-weights: $(READY)
	rm -rf data/demo
	$(BIN)/python -m drivers.simulated parts data/demo/bulb --product bulb --count 800 --seed 1
	$(BIN)/python -m drivers.simulated parts data/demo/iron --product iron --count 600 --seed 1
	$(BIN)/station train bulb data/demo/bulb --pretrained none --width 0.125 --size 224 --epochs 10
	$(BIN)/station train iron data/demo/iron --pretrained none --width 0.125 --size 224 --epochs 8

# Every fault of the table twenty times at random moments of five running lines. Twenty-five minutes on two cores.
faults: $(READY)
	$(BIN)/python tests/faults/run.py --each 20 --table docs/faults.md

# Cameras for half an hour: full rate through every boundary, kills, a thousand reconnects, and a loop that is never late.
soak: $(READY)
	$(BIN)/python tests/soak.py
