# Each target sets up what it needs: the environment is made once, in .venv, with every version pinned.

PYTHON ?= python3
ENV := . .venv/bin/activate &&
COLUMNS_SHOWN := ^(Experiment|war|uar|ece|nll|n_test|n_left_out|selection|data\.name|model\.temporal|tam\.strategy|train\.epochs)$$

.PHONY: demo check test lint bench scale fuzz

# Tests that take a second or so each: rules of the house, parameters, tables, the method's own parts.
QUICK := house config reference columns index blocks plan rules names track acl stm metrics statistics selective

# From nothing to a table of results, on drawn heads and two CPU cores.
demo: .venv
	$(ENV) dvc repro
	$(ENV) COLUMNS=150 dvc exp show --no-pager --drop '.*' --keep '$(COLUMNS_SHOWN)'

# Before each commit: style, types and the quick tests, in less than 90 s on two quiet cores.
check: lint
	$(ENV) python -m pytest -n 2 --dist loadfile $(QUICK:%=tests/test_%.py)

test: .venv
	$(ENV) python -m pytest -n 2 --dist worksteal

lint: .venv
	$(ENV) ruff check .
	$(ENV) ruff format --check .
	$(ENV) mypy

# Every ratio of docs/performance.md again, in about 20 minutes of an idle machine, after the demo.
bench: .venv .venv-loaders
	$(ENV) dvc repro --quiet
	$(ENV) for name in startup memory method shard_build; do python -m tools.benchmarks.$$name || exit 1; done
	PYTHONPATH=. .venv-loaders/bin/python -m tools.benchmarks.loader
	$(ENV) python -m tools.pages

# What docs/scale.md says of ten million rows and of whole clusters, in about 15 minutes.
scale: .venv
	$(ENV) python -m tools.benchmarks.rows
	$(ENV) python -m tools.benchmarks.scale
	$(ENV) python -m tools.pages

# Thousands of damaged files against everything that reads files, in at most half an hour. The other long
# runs of docs/reliability.md are `python -m tools.faults.frames`, `.kill` and `.soak`.
fuzz: .venv
	$(ENV) python -m tools.faults.fuzz
	$(ENV) python -m tools.pages

# torch and torchvision come in their CUDA build, which runs on a CPU too: about 3 GB once.
.PHONY: .venv
.venv: .venv/made

.venv/made: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(ENV) pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	$(ENV) python -m cli.plots_page
	touch $@

# Other loaders, to be timed beside ours: tools/benchmarks/requirements.txt says why they live apart. The
# environment sees the project's packages behind its own.
.PHONY: .venv-loaders
.venv-loaders: .venv .venv-loaders/made

.venv-loaders/made: tools/benchmarks/requirements.txt constraints.txt
	$(PYTHON) -m venv .venv-loaders
	.venv/bin/python -c "import site; print(site.getsitepackages()[0])" \
	  > $$(.venv-loaders/bin/python -c "import site; print(site.getsitepackages()[0])")/project.pth
	grep -v ^numpy== constraints.txt > .venv-loaders/constraints.txt
	.venv-loaders/bin/pip install --quiet --disable-pip-version-check \
	  --constraint .venv-loaders/constraints.txt --requirement tools/benchmarks/requirements.txt
	touch $@
