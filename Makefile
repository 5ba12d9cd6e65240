# Two commands for a fresh machine with Python 3.11 or 3.12 and make: `make demo` and `make test`.
# Each sets up .venv by itself; the stamp file makes the second call start at once.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# The tests start hundreds of processes: each finds the modules compiled, whatever the environment says.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test lint docs slow slow-boxed soak browser benchmarks clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/psla demo --out runs/demo

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile

slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

# The slow laws in 30 minutes: none begins after 25, and what was left out is named.
slow-boxed: $(STAMP)
	$(BIN)/python -m pytest -n 2 -m slow --begin-within 25 -rs

# What takes many minutes each, and is run by hand: hundreds of files, kills, hours of sound, hosts apart.
soak: $(STAMP)
	$(BIN)/python -m pytest -m soak -rs

browser: $(STAMP)
	$(BIN)/python -m pytest -m browser -rs

# Of scripts and benchmarks mypy asks only whether what they call is there: they are run by hand, and rarely.
lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	MYPYPATH=src:benchmarks:scripts $(BIN)/mypy --ignore-missing-imports --no-warn-unused-ignores \
		$(foreach code,import-untyped no-untyped-def call-overload union-attr index operator arg-type dict-item assignment \
			return-value misc var-annotated,--disable-error-code=$(code)) benchmarks/*.py scripts/*.py

docs: $(STAMP)
	$(BIN)/mkdocs build --strict --quiet

benchmarks: $(STAMP)
	$(BIN)/python benchmarks/front_end.py
	$(BIN)/python benchmarks/network.py
	$(BIN)/python benchmarks/epoch_plan.py
	$(BIN)/python benchmarks/loading.py
	$(BIN)/python benchmarks/pack.py
	$(BIN)/python benchmarks/corpora.py
	$(BIN)/python benchmarks/labeling.py
	$(BIN)/python benchmarks/metrics.py
	$(BIN)/python benchmarks/tagging.py

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
