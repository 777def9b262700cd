"""Bounds of versions: what was tried lies within them, and the code runs on both sides of a change.

That older ones fail is known of two: typer 0.15 cannot print --help, pyarrow 20 cannot read what it
wrote of lists of a fixed size.
"""

import runpy
import tomllib

import av
import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from support import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = [each for extra in PROJECT["optional-dependencies"].values() for each in extra]
LISTED = [*PROJECT["dependencies"], *EXTRAS]
BOUNDS = {each.name.lower(): each for each in map(Requirement, LISTED)}
TRIED = {
    name.lower(): Version(version)
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if "==" in line and not line.startswith("#")
    for name, version in [line.split("==")]
}


def test_what_was_tried_together_lies_within_the_bounds() -> None:
    outside = [
        str(bound)
        for name, bound in BOUNDS.items()
        if name in TRIED and TRIED[name] not in bound.specifier
    ]
    assert outside == []
    assert BOUNDS.keys() - TRIED.keys() == set()


@pytest.mark.parametrize(
    ("name", "version", "inside"),
    [
        *(("typer", "0.15.1", False), ("typer", "0.18.0", False), ("typer", "0.19.0", True)),
        *(("pyarrow", "20.0.0", False), ("av", "18.0.0", True), ("av", "19.3.0", True)),
        *(("av", "17.1.0", False), ("av", "20.0.0", False)),
    ],
)
def test_what_is_known_to_fail_lies_outside(name: str, version: str, inside: bool) -> None:
    assert (Version(version) in BOUNDS[name].specifier) == inside


@pytest.mark.parametrize(
    ("version", "takes"), [("18.1.0", True), ("19.0.0", False), ("19.0.0rc1", False)]
)
def test_an_option_that_pyav_lost_is_given_where_it_is_known(
    monkeypatch: pytest.MonkeyPatch, version: str, takes: bool
) -> None:
    monkeypatch.setattr(av, "__version__", version)
    told = runpy.run_path(str(ROOT / "pipeline" / "video" / "container.py"))
    assert told["_LENIENT"] == ({"metadata_errors": "ignore"} if takes else {})
