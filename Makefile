# Each target sets up what it needs: the environment is made once, in .venv, with every version pinned.

PYTHON ?= python3
ENV := . .venv/bin/activate &&
COLUMNS_SHOWN := ^(Experiment|war|uar|ece|nll|n_test|n_left_out|selection|data\.name|model\.temporal|tam\.strategy|train\.epochs)$$

.PHONY: demo test lint bench scale fuzz

# From nothing to a table of results, on animated faces and two CPU cores.
demo: .venv
	$(ENV) dvc repro
	$(ENV) COLUMNS=150 dvc exp show --no-pager --drop '.*' --keep '$(COLUMNS_SHOWN)'

test: .venv
	$(ENV) python -m pytest -n 2 --dist worksteal

lint: .venv
	$(ENV) ruff check .
	$(ENV) ruff format --check .
	$(ENV) mypy

# Every ratio of docs/performance.md anew, in about 20 minutes of an idle machine, after the demo.
bench: .venv .venv-rivals
	$(ENV) dvc repro --quiet
	$(ENV) for name in startup memory method shard_build; do python -m tools.benchmarks.$$name || exit 1; done
	PYTHONPATH=. .venv-rivals/bin/python -m tools.benchmarks.loader
	$(ENV) python -m tools.pages

# What docs/scale.md says of ten million rows and of whole clusters, in about 15 minutes: the second command
# writes its part of that page itself.
scale: .venv
	$(ENV) python -m tools.benchmarks.rows
	$(ENV) python -m tools.benchmarks.scale
	$(ENV) python -m tools.pages

# Thousands of damaged files against everything that reads files, in at most half an hour. The two other
# long runs of docs/reliability.md are `python -m tools.faults.kill` and `python -m tools.faults.soak`.
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
.PHONY: .venv-rivals
.venv-rivals: .venv .venv-rivals/made

.venv-rivals/made: tools/benchmarks/requirements.txt constraints.txt
	$(PYTHON) -m venv .venv-rivals
	.venv/bin/python -c "import site; print(site.getsitepackages()[0])" \
	  > $$(.venv-rivals/bin/python -c "import site; print(site.getsitepackages()[0])")/project.pth
	grep -v ^numpy== constraints.txt > .venv-rivals/constraints.txt
	.venv-rivals/bin/pip install --quiet --disable-pip-version-check \
	  --constraint .venv-rivals/constraints.txt --requirement tools/benchmarks/requirements.txt
	touch $@
