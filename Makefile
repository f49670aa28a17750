# Every target makes its own environment in .venv and uses it again.
PYTHON ?= python3
EXTRAS ?= dev
VENV := .venv
BIN := $(VENV)/bin
# The fastest way a CPU-only pip gets the very versions that CI ran.
PIP_INSTALL := $(BIN)/python -m pip install --quiet \
  --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-all lint clean

$(VENV)/$(EXTRAS): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "p3d_jax needs Python >= 3.11; set PYTHON=python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --editable '.[$(EXTRAS)]'
	@touch $@
