# Each target sets up what it needs: the environment is made once, in .venv, with every version pinned.

PYTHON ?= python3
ENV := . .venv/bin/activate &&

.PHONY: demo test lint

# From nothing to a table of results, on animated faces and two CPU cores.
demo: .venv
	$(ENV) dvc repro
	$(ENV) dvc exp show --md --drop '(data|runs|pipeline|safe|results)/|Created|State|Executor|Experiment|data|synthesize|faces|shard|augment|acl|eval|runtime|recall'

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
