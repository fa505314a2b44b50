# Two commands: `make demo` runs the main job, `make test` runs the tests. Each sets up everything.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= out/tiny
RECIPE ?= recipes/tiny.yaml

.PHONY: demo test setup lint docs clean

demo: setup
	$(BIN)/smelt run $(RECIPE) $(OUT)
	@echo "open $(OUT)/report.html"

test: setup lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python scripts/docs.py --check

docs: setup
	$(BIN)/python scripts/docs.py

setup: $(VENV)/.done

# torch first and by itself: asked for by another package, it would bring CUDA builds along.
$(VENV)/.done: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) not found; set PYTHON=python3.x (3.11 or newer)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade -c constraints.txt pip
	$(BIN)/python -m pip install --quiet -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) out
