# Each target sets up what it needs: the environment is made once, in .venv, with every version pinned.

PYTHON ?= python3
ENV := . .venv/bin/activate &&
COLUMNS_SHOWN := ^(Experiment|war|uar|ece|nll|n_test|n_left_out|selection|data\.name|model\.temporal|tam\.strategy|train\.epochs)$$

.PHONY: demo test lint

# From nothing to a table of results, on animated faces and two CPU cores.
demo: .venv
	$(ENV) dvc repro
	$(ENV) COLUMNS=150 dvc exp show --no-pager --drop '.*' --keep '$(COLUMNS_SHOWN)'

test: .venv
	$(ENV) python -m pytest

lint: .venv
	$(ENV) ruff check .
	$(ENV) ruff format --check .
	$(ENV) mypy

# torch and torchvision come in their CUDA build, which runs on a CPU too: about 3 GB once.
.PHONY: .venv
.venv: .venv/made

.venv/made: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(ENV) pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@
