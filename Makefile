# Every target sets itself up: on a fresh machine `make quickstart` or `make test` is the first and only command.
#   make quickstart   train, attack and certify on the embedded digits, print one table (under 3 minutes on 2 cores)
#   make test         the test suite without the tests marked slow
#   make test-slow    the tests marked slow
#   make lint         ruff and mypy
#   make bench        queries a second against the victim's own forward rate, and peak memory
#   make clean        remove caches; `make distclean` the virtual environment too. Runs are never removed

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install quickstart test test-slow lint format bench clean distclean

help:
	@sed -n 's/^#   //p' Makefile

install: $(INSTALLED)

# Remade when a requirement changes; an environment that is already there is kept and brought up to date.
$(INSTALLED): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Zeroth needs Python 3.11 or newer, $(PYTHON) is older: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

# The commands of the README, in its order. Given again, each goes on from what is there.
PLAIN := runs/train-victim/digits/checkpoints/best.ckpt
NOISE := runs/train-victim/digits_noise/checkpoints/best.ckpt
DEFENDED := runs/train-defense/zo_ae_ds/checkpoints/best.ckpt

quickstart: $(INSTALLED)
	$(BIN)/python train.py --config configs/victim/digits.yaml
	$(BIN)/python train.py --config configs/victim/digits_noise.yaml
	$(BIN)/python train.py --config configs/autoencoder/digits.yaml
	$(BIN)/python train.py --config configs/defense/digits_ae_ds.yaml \
		--model.estimator CGE --model.estimator.mu 0.005 --run.name zo_ae_ds
	$(BIN)/python attack.py --checkpoint $(PLAIN) --attack configs/attack/zo_ngd.yaml --images.count 200
	$(BIN)/python attack.py --checkpoint $(PLAIN) --attack configs/attack/nes_pgd.yaml --images.count 200
	$(BIN)/python certify.py --checkpoint $(PLAIN) --certify configs/certify/quick.yaml --images.count 200
	$(BIN)/python certify.py --checkpoint $(NOISE) --certify configs/certify/quick.yaml --images.count 200
	$(BIN)/python certify.py --checkpoint $(DEFENDED) --certify configs/certify/quick.yaml --images.count 200
	$(BIN)/python -m zeroth.records show runs/attack/digits-zo_ngd runs/attack/digits-nes_pgd \
		runs/certify/digits-sigma0.25 runs/certify/digits_noise-sigma0.25 runs/certify/zo_ae_ds-sigma0.25

test: $(INSTALLED)
	$(BIN)/python -m pytest -m "not slow" -n auto --maxprocesses 8 --dist worksteal

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks

clean:
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
