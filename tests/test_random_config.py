"""Random params.yaml and overrides: a Config, or a ConfigError in one line that names a key."""

import copy
import re
from itertools import pairwise
from pathlib import Path

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safe.config import Config
from safe.errors import ConfigError
from safe.params import load_config, parse_config
from tools.faults.mutate import mutate

PARAMS = Path(__file__).parents[1] / "params.yaml"
RAW = yaml.safe_load(PARAMS.read_text())
KEYS = [(section, key) for section in RAW if isinstance(RAW[section], dict) for key in RAW[section]]
NAMES = {"seed", *RAW, *(key for _, key in KEYS)}
QUICK = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,  # the same examples in each run
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

SLOW = settings(QUICK, max_examples=25)
"""Hydra's parser takes some 50 ms an override."""

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.integers(),
    st.floats(),
    st.sampled_from(["auto", "val", "tam", "../x", "1e5", "0x10", "two\nlines", "1:30", "~", "\0"]),
    st.text(max_size=20),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


def config_or_line(load) -> str:
    """Return "" for a Config, else the line, which must be one and not longer than a few lines."""
    try:
        config = load()
    except ConfigError as error:
        line = str(error)
        assert line
        assert len(line.splitlines()) == 1, repr(line)
        assert len(line) < 2000
        return line
    assert isinstance(config, Config)
    return ""


def names_a_key(line: str) -> bool:
    return bool(NAMES & set(re.findall(r"\w+", line)))


@QUICK
@given(st.lists(st.tuples(st.sampled_from(KEYS), VALUES), min_size=1, max_size=3))
def test_random_values_give_a_config_or_one_line_that_names_the_key(changes):
    raw = copy.deepcopy(RAW)
    for (section, key), value in changes:
        raw[section][key] = value
    line = config_or_line(lambda: parse_config(raw))
    names = {name for (section, key), _ in changes for name in (section, key)}
    assert not line or names & set(re.findall(r"\w+", line)), line


@QUICK
@given(st.sampled_from(KEYS), st.data())
def test_random_numbers_near_the_right_one_are_often_right(place, data):
    section, key = place
    value = RAW[section][key]
    near = st.just(value)
    if type(value) is int:
        near = st.integers(0, 2 * value + 2)
    elif type(value) is float:
        near = st.floats(0, 2 * value + 1)
    raw = copy.deepcopy(RAW)
    raw[section][key] = data.draw(near)
    line = config_or_line(lambda: parse_config(raw))
    assert not line or names_a_key(line), line


@SLOW
@given(
    st.sampled_from([f"{section}.{key}" for section, key in KEYS] + ["seed", "data", "nothing"]),
    st.one_of(SCALARS.map(str), VALUES.map(repr), st.text(max_size=12)),
)
def test_random_overrides_give_a_config_or_one_line_that_names_the_key(key, value):
    line = config_or_line(lambda: load_config(PARAMS, [f"{key}={value}"]))
    assert not line or key.split(".")[-1] in line, line


@SLOW
@given(st.text(max_size=40))
def test_a_random_override_is_refused_in_one_line(text):
    line = config_or_line(lambda: load_config(PARAMS, [text]))
    assert line.startswith("-S ") or names_a_key(line), line


@QUICK
@given(document=VALUES, flow=st.booleans())
def test_a_random_document_is_refused_in_one_line(document, flow, tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(document, default_flow_style=flow))
    assert document == {} or config_or_line(lambda: load_config(path))


NASTY = (
    "? [1, 2]\n: 3\n",  # a key that is a list
    "? {a: 1}\n: 3\n",
    "seed: 2001-99-99\n",  # a date that there is not
    "seed: !!int x\n",
    "seed: !!binary x\n",
    "seed: !!python/object/apply:os.system [touch x]\n",
    "a: &a [*a]\n",  # a list that holds itself
    "a: &a {b: *a}\n",
    "<<: 1\n",
    "seed: " + "9" * 5000 + "\n",
    "seed: " + "[" * 5000 + "]" * 5000 + "\n",
    "seed: " + "{a: " * 5000 + "}" * 5000 + "\n",
    "seed: 0x" + "f" * 5000 + "\n",
    "seed: 1:99999999:1\n",
    '"two\\nlines": 1\n',
    '"\\u202e": 1\n',
    "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{to}: &{to} [{', '.join([f'*{of}'] * 9)}]\n" for of, to in pairwise("abcdefghi")),
    "\0",
    "\ufeff",
    "",
    "%YAML 9.9\n---\na: 1\n",
    "seed: 0\n---\nseed: 1\n",
)


def test_documents_made_to_hurt_are_refused_in_one_line(tmp_path):
    path, wrong = tmp_path / "params.yaml", {}
    for text in NASTY:
        path.write_text(text, encoding="utf-8")
        try:
            assert config_or_line(lambda: load_config(path))
        except Exception as error:  # noqa: BLE001  all are to be seen, not only the first
            wrong[text[:40]] = f"{type(error).__name__}: {str(error)[:100]}"
    assert wrong == {}


@QUICK
@given(number=st.integers(0, 10**6))
def test_a_damaged_params_yaml_gives_a_config_or_one_line(number, tmp_path):
    path = tmp_path / "params.yaml"
    path.write_bytes(mutate(PARAMS.read_bytes(), seed=0, number=number).data)
    config_or_line(lambda: load_config(path))
