# Two commands matter: `make demo` trains a small LaMa and shows what it can do, `make test` runs every test.
PYTHON ?= python3
BIN := .venv/bin
export MPLBACKEND = Agg
export OMP_WAIT_POLICY = PASSIVE

.PHONY: demo test lint clean chapters solutions figures

demo: .venv
	$(BIN)/python -m lama_minimal demo --out runs/demo

test: .venv
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadgroup

# Repeatable at no cost: made again only when what it is made from has changed.
.venv: .venv/installed
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 …")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

chapters: .venv  # solutions/ → chapters/
	$(BIN)/python -m lama_minimal.course chapters

solutions: .venv  # run every solution and store its outputs, then make the chapters
	$(BIN)/python -m lama_minimal.course run
	$(BIN)/python -m lama_minimal.course chapters

figures: .venv  # all figures of all chapters on one page, build/figures.html
	$(BIN)/python -m lama_minimal.course figures

lint: .venv
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

clean:
	rm -rf .venv runs
