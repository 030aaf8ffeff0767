# Everything a fresh machine needs: `make demo` runs the study on drawn images, `make test` passes all tests,
# `make bench` measures.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2

.PHONY: setup demo test bench lint format lock clean

setup: $(VENV)/.installed

# The lock list pins and hashes every package; --no-deps keeps out the PyTorch that medmnist declares.
$(VENV)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed, $(PYTHON) is older: make PYTHON=python3.11 setup" >&2; exit 2; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# Large pages, where glibc is 2.35 or newer: fresh memory then costs a fraction of the time.
demo bench: export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

demo: setup
	$(BIN)/python -m experiments.run --flagfile=demo.flags

test: setup
	$(BIN)/python -m pytest -n $(WORKERS) --dist=worksteal

bench: setup
	$(BIN)/python -m benchmarks

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Needs uv. medmnist is resolved alone and without what it declares.
lock:
	{ echo "# Every package of the environment, pinned and hashed; installed with --no-deps, so that medmnist comes without PyTorch."; \
	  echo "# Made by 'make lock'."; \
	  uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	    --extra test --extra dev pyproject.toml; \
	  echo "medmnist==3.0.2" | uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	    --no-header --no-deps -; } > requirements.lock.new
	mv requirements.lock.new requirements.lock

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache
