"""What every test process does at its start and end; the fixtures are in shared_fixtures.py."""

import gc

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Have the fixtures, but not where tests are only handed out: torch takes seconds to import."""
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        config.pluginmanager.import_plugin("shared_fixtures")


def pytest_collection_finish() -> None:
    """Take what is imported out of the collector's sight: it looks at 700,000 objects else."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let the end be as it always is: nanobind complains of what is never collected."""
    gc.unfreeze()
