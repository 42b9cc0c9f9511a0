# Two commands matter: `make demo` trains a small LaMa and shows what it can do, `make test` runs every test.
PYTHON ?= python3
BIN := .venv/bin
export MPLBACKEND = Agg
export OMP_WAIT_POLICY = PASSIVE

.PHONY: demo test lab lint clean chapters solutions figures mutants nbgrader colab

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
	$(BIN)/python -m lama_minimal.course syllabus

lab: .venv  # the chapters in JupyterLab
	$(BIN)/python -m jupyterlab chapters

solutions: .venv  # run every solution and store its outputs, then make the chapters
	$(BIN)/python -m lama_minimal.course run
	$(BIN)/python -m lama_minimal.course chapters
	$(BIN)/python -m lama_minimal.course syllabus

figures: .venv  # all figures of all chapters on one page, build/figures.html
	$(BIN)/python -m lama_minimal.course figures

mutants: .venv  # would the graded tests notice every small mistake?
	OMP_NUM_THREADS=1 $(BIN)/python tests/mutants.py

# Environments of their own, below build/; each takes a few minutes, the first time more.
nbgrader: .venv  # nbgrader itself grades two exported chapters; its points must be ours
	$(BIN)/python -m venv build/nbgrader
	build/nbgrader/bin/python -m pip install --quiet nbgrader==0.9.6 torch==2.13.0 -e .
	OMP_NUM_THREADS=1 build/nbgrader/bin/python tests/nbgrader_run.py build/nbgrader-course 04 05

colab: .venv  # Colab's versions, the package fetched by the chapters' own first cell
	$(BIN)/python -m venv build/colab
	build/colab/bin/python -m pip install --quiet torch==2.13.0 -r tests/colab.txt
	OMP_NUM_THREADS=1 build/colab/bin/python tests/colab_run.py build/colab-run 02 04 05 10 11 12 13

lint: .venv
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

clean:
	rm -rf .venv build  # runs are yours
