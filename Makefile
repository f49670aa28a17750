# Every target makes its own environment in .venv and uses it again.
PYTHON ?= python3
# Extras of setup.cfg that the tests run with; CI adds what they compare with:
# references, and tpu.
EXTRAS ?= dev
VENV := .venv
BIN := $(VENV)/bin
P3D := $(BIN)/p3d
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

.PHONY: demo test test-all lint bench clean

demo: $(VENV)/.has-demo
	@mkdir -p demo
	$(P3D) data build camera_motion --out=demo/data > demo/set
	$(P3D) train --config=experiments/configs/demo.py --workdir=demo/run \
	  --config.data.dir="$$(cat demo/set)"
	$(P3D) evaluate demo/run --clips=4
	$(P3D) data extract "$$(cat demo/set)" --count=4 --out=demo/videos
	$(P3D) predict demo/run demo/videos/*.mp4 --top=2
	$(P3D) predict demo/run "$$(ls demo/videos/*.mp4 | head -n 1)" \
	  --top=1 --timeline=demo/timeline.png
	$(P3D) report demo/run

test: $(VENV)/.has-$(EXTRAS)
	$(PYTEST) -m "not slow"

# What `make test` leaves out because it takes long.
test-all: $(VENV)/.has-$(EXTRAS)
	XLA_FLAGS=--xla_backend_optimization_level=3 $(PYTEST) -m slow

lint: $(VENV)/.has-$(EXTRAS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Against the PyTorch port, in PyTorch: a quarter of an hour.
bench: $(VENV)/.has-dev,references
	$(BIN)/python -m experiments.benchmarks.vs_torch

clean:
	rm -rf $(VENV) demo build *.egg-info .pytest_cache .mypy_cache .ruff_cache

# constraints.txt holds the versions that CI ran.
$(VENV)/.has-%: setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "p3d_jax needs Python >= 3.11: make PYTHON=/path/to/python3.11"; \
	    exit 1; }
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt --editable '.[$*]'
	@touch $@
