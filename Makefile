# Two commands set themselves up on a fresh machine with Python 3.11+ and pip: make demo, make test.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS ?= dev
STAMP := $(VENV)/.installed-$(EXTRAS)

.PHONY: demo test test-all lint format bench gpu clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else f"Reverie needs Python 3.11 or newer, {sys.executable} is {v[0]}.{v[1]}; try: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/python -m reverie demo

test: $(STAMP)
	$(BIN)/python -m pytest -m 'not slow' -n 2 --dist loadgroup

test-all: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadgroup

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	mkdir -p $(VENV)/typed && ln -sfn $(CURDIR) $(VENV)/typed/reverie
	MYPYPATH=$(VENV)/typed $(BIN)/mypy -p reverie.buffers -p reverie.envs -p reverie.agents -p reverie.experiments

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	for what in env buffer learner offline population population-learner; do $(BIN)/reverie bench $$what || exit 1; done

# On a machine with an NVIDIA GPU: the engine's tests on it, then the stages of the bench.
gpu: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS),gpu]'
	REVERIE_DEVICE=cuda $(BIN)/python -m pytest tests/warp
	s=0; for n in 1 2 3 4; do $(BIN)/reverie bench gpu --stage $$n || s=1; done; exit $$s

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
