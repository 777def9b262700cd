"""Is docs/reference.md what the code says, and does it have every key and every command, once?"""

import re

import pytest
import yaml
from support import ROOT
from typer.testing import CliRunner

from cli.app import app
from cli.reference import (
    PAGE,
    describe,
    describe_range,
    read_words,
    write_page,
    write_params,
)
from safe.config import Config, Data
from safe.errors import ConfigError
from safe.params import load_config

TEXT = (ROOT / PAGE).read_text(encoding="utf-8")
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
VALUES = {
    f"{section}.{key}": value
    for section, block in PARAMS.items()
    if isinstance(block, dict)
    for key, value in block.items()
} | {key: value for key, value in PARAMS.items() if not isinstance(value, dict)}


def rows() -> list[list[str]]:
    """The tables' rows of parameters: key, default, allowed, meaning."""
    lines = [line for line in TEXT.splitlines() if re.match(r"\| `[\w.]+` \| `", line)]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_the_page_is_what_the_code_says():
    assert write_page(ROOT) == TEXT, "the code has changed: run `python -m cli.reference`"


def test_every_key_stands_there_once_with_its_value_and_a_meaning():
    found = {key.strip("`"): cells for key, *cells in rows()}
    assert len(rows()) == len(found)
    assert found.keys() == VALUES.keys()
    for key, (default, allowed, meaning) in found.items():
        assert yaml.safe_load(default.strip("`")) == VALUES[key], key
        assert allowed, key
        assert meaning, f"params.yaml: {key} has no comment"


def test_every_command_stands_there_once():
    """The names are read from the help, as a user sees them."""
    listed = commands([])
    assert {"index", "train", "experiments"} <= set(listed)
    full = [name for name in listed if name != "experiments"]
    full += [f"experiments {name}" for name in commands(["experiments"])]
    headings = re.findall(r"^### safe-cli ([a-z-]+(?: [a-z-]+)?)", TEXT, re.MULTILINE)
    assert sorted(headings) == sorted(full)


def commands(group: list[str]) -> list[str]:
    said = CliRunner().invoke(app, [*group, "--help"]).output.partition("Commands:")[2]
    return re.findall(r"^  ([a-z-]+)", said, re.MULTILINE)


@pytest.mark.parametrize("key", sorted(VALUES))
def test_what_the_page_allows_is_what_the_code_takes(key):
    """Each option is taken; a value beyond each bound of a range is refused."""
    allowed = next(cells[2] for cells in rows() if cells[0] == f"`{key}`")
    options = re.findall(r"`(\w+)`", allowed)
    if options and not allowed.startswith(("whole", "number", "text", "list")):
        with pytest.raises(ConfigError, match=re.escape(key)):
            load(f"{key}=none_of_them")
        assert str(VALUES[key]).lower() in options
        return
    for word, number in re.findall(r"(from|to|above|below) ([\d.]+)", allowed):
        step = 1 if word in ("to", "from") else 0
        beyond = float(number) + (step if word in ("to", "below") else -step)
        value = int(beyond) if allowed.startswith(("whole", "list")) else beyond
        with pytest.raises(ConfigError, match=re.escape(key)):
            load(f"{key}={[value]}" if allowed.startswith("list") else f"{key}={value}")


def load(override: str) -> None:
    load_config(ROOT / "params.yaml", [override])


def test_options_that_stand_in_the_cell_beside_are_left_out():
    assert describe("b | c. d e | f", ["b", "c"]) == "d e; f"
    assert describe("b | c: d", ["b", "c"]) == "b; c: d"


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ({"type": "integer", "minimum": 0, "exclusiveMaximum": 2**63}, "whole number from 0"),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 2}, "number above 0 to 2"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "text or `null`"),
        ({"const": "a", "type": "string"}, "`a`"),
        (
            Data.model_json_schema()["properties"]["classes"],
            "list of text, or mapping to text or `null`, or `null`",
        ),
    ],
)
def test_ranges_in_words(field, words):
    assert describe_range(field) == words


def test_params_yaml_is_made_of_the_fields():
    """Values and comments: every default is that of its field, every word what stands below it."""
    text = (ROOT / "params.yaml").read_text()
    assert text == write_params(Config().model_dump()), "run `python -m cli.reference`"
    assert set(read_words()) == {"section", "config", *VALUES, *Config.model_fields}
