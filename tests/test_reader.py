"""What is read back is bounded and checked, and foreign text never acts: files of a stranger."""

import contextlib
import io
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from dvc.utils.serialize import parse_yaml
from markdown_it import MarkdownIt
from support import bare_info

from cli.inspect import lines
from cli.progress import note, progress, say
from pipeline.datasets.base import read_text
from pipeline.datasets.own import read_table
from safe.config import Data
from safe.errors import ConfigError, DataError, ModelError, SafeError, explain
from safe.evaluation.inference import Inference
from safe.evaluation.predictions import parse_metrics, parse_predictions
from safe.footer import read_footer
from safe.info import info_digest, parse_info
from safe.models.registry import build_model
from safe.params import load_config, parse_mapping
from safe.reader import Column, read_columns
from safe.report.card import _escaped
from safe.report.gather import gather
from safe.taxonomy import BASIC, encode

CASES = Path(os.environ.get("SAFE_SHARED", "/nowhere")) / "cases" / "attacks"
ACTIVE = "\x1b[31mred\n# heading\r<script>alert(1)</script> \u202e[x](http://a.b) `c` | *d* @e"
FLOATS = pa.list_(pa.float32())


def table(**other) -> pa.Table:
    """Three rows that are right, but for `other` columns."""
    columns = {
        "clip": pa.array(["a", "b", "c"]),
        "label": pa.array([0, 1, 2], pa.int8()),
        "logits": pa.array(np.eye(3, 7).tolist(), FLOATS),
        "embedding": pa.array([[1.0, 2.0]] * 3, FLOATS),
        "attention": pa.array([[1.0]] * 3, FLOATS),
    }
    return pa.table(columns | other).replace_schema_metadata(encode(BASIC))


def packed(made: pa.Table, **how) -> bytes:
    sink = io.BytesIO()
    pq.write_table(made, sink, **how)
    return sink.getvalue()


def one_line(error: pytest.ExceptionInfo[SafeError]) -> str:
    text = str(error.value)
    assert text.isprintable()
    assert len(text) < 700
    return text


def lists(*rows) -> pa.Array:
    return pa.array(rows, FLOATS)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"label": pa.array([0, 1, 100], pa.int8())}, "label"),
        ({"label": pa.array([0, 1, -1], pa.int8())}, "label"),
        ({"label": pa.array([0, None, 1], pa.int8())}, "label"),
        ({"label": pa.array([0.0, 1.0, 2.0])}, "columns"),
        ({"clip": pa.array(["a", "b", "a"])}, "clip"),
        ({"clip": pa.array(["a", None, "c"])}, "clip"),
        ({"clip": pa.array(["a", "b", "c" * 10**6])}, "clip"),
        ({"clip": pa.array([1, 2, 3])}, "columns"),
        ({"attention": lists([1.0], [float("nan")], [1.0])}, "attention"),
        ({"attention": lists([1.0], [float("-inf")], [1.0])}, "attention"),
        ({"attention": lists([], [], [])}, "attention"),
        ({"attention": lists([1.0], [1.0, 2.0], [1.0])}, "attention"),
        ({"attention": lists([1.0], None, [1.0])}, "attention"),
        ({"attention": lists([1.0], [None], [1.0])}, "attention"),
        ({"attention": lists(*[[0.01] * 100] * 3)}, "attention"),
        ({"embedding": pa.array([1.0, 2.0, 3.0], pa.float32())}, "columns"),
        ({"embedding": lists([1.0], [float("inf")], [1.0])}, "embedding"),
        ({"embedding": lists([0.5] * 2**17, *[[0.5]] * 2)}, "embedding"),
        ({"logits": lists([1.0], [1.0], [1.0])}, "7 logits"),
        ({"logits": lists(*[[float("nan")] * 7] * 3)}, "logits"),
        ({"more": pa.array([1, 2, 3])}, "columns"),
    ],
)
def test_predictions_that_cannot_be_are_one_line(other, told):
    with pytest.raises(DataError, match=told) as error:
        parse_predictions(packed(table(**other)), "x/predictions.parquet")
    assert one_line(error).startswith("x/predictions.parquet: ")


def test_predictions_that_can_be_are_read():
    split = parse_predictions(packed(table()), "x")
    assert (split.clip, split.label.tolist(), split.classes) == (("a", "b", "c"), [0, 1, 2], BASIC)
    assert split.logits.tolist() == np.eye(3, 7).tolist()


def test_a_few_kilobytes_that_say_millions_of_numbers_take_no_memory():
    """Equal rows, and a list that is as long: run lengths pack both into almost nothing."""
    count = 2**21
    one = pa.repeat(pa.scalar(0.5, pa.float32()), count)
    long = pa.ListArray.from_arrays(pa.array([0, 1, 2, count], pa.int32()), one)
    few = 10**6
    short = pa.repeat(pa.scalar([0.5], FLOATS), few)
    names = pa.repeat(pa.scalar("a"), few)
    rows = {"clip": names, "label": pa.repeat(pa.scalar(0, pa.int8()), few)}
    rows |= dict.fromkeys(("logits", "embedding", "attention"), short)
    bombs = [packed(table(attention=long)), packed(table(embedding=long), compression="zstd")]
    bombs += [packed(pa.table(rows))]
    del one, long, short, names, rows
    assert max(map(len, bombs)) < 30_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for bomb in bombs:
        with pytest.raises(DataError) as error:
            parse_predictions(bomb, "x")
        one_line(error)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # of 1,024 bytes


@pytest.mark.parametrize(
    "text",
    [
        *("[1,2]", "null", "{", "[" * 200_000, '{"a":' * 200_000, "\0", '{"war": NaN}'),
        *('{"n_left_out": "abc"}', '{"n_test": -1}', '{"n_test": 1e99}', '{"war": 101}'),
        *('{"recall.sad": "x"}', '{"x": [1]}', '{"x": {}}', '{"x": 1e999}', '{"selection": "y"}'),
        '{"x": 1' + "0" * 5000 + "}",
        '{"perturb": "' + "x" * 10_000 + '"}',
        "[" + "[]," * 2**22 + "[]]",
    ],
)
def test_metrics_that_cannot_be_are_one_line(text):
    with pytest.raises(DataError) as error:
        parse_metrics(text.encode(), "x/metrics.json")
    assert one_line(error).startswith("x/metrics.json: ")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("architecture", {"hidden": 12000}),
        ("architecture", {"hidden": "<b>"}),
        ("architecture", {"window": None}),
        ("dataset", ACTIVE),
        ("dataset", 7),
        ("commit", "x" * 1000),
        ("seed", 10**30),
        ("train_clips", -1),
        ("train_clips", "many"),
        ("torch", [1]),
        ("params", {"train": {"epochs": "<b>"}}),
        ("params", {"train": {"val_fraction": "0.1"}}),
        ("params", {"eval": {"bins": 10**9}}),
        ("params", {"a": {"b": {"c": {"d": 1}}}}),
        ("params", {"train": [1]}),
        ("params", []),
        ("selection", {"rule": "val", "epoch": 1, "metric": [1]}),
        ("history", [{"loss": float("nan")}]),
        ("history", [{"loss": None}]),
        ("history", [[]]),
        ("preprocessing", {"id": "0123456789abcdef", "made_from": {"size": 10**9}}),
        ("preprocessing", {"id": ACTIVE}),
        ("cost", {"parameters": 1}),
    ],
)
def test_a_model_json_says_nothing_that_cannot_be(key, value):
    info = bare_info(**{key: value})
    data = json.dumps({**info, "sha256": info_digest(info)}).encode()
    with pytest.raises(ModelError, match=key) as error:
        parse_info(data, Path("x/model.json"))
    assert one_line(error).startswith("x/model.json: damaged or altered: ")


def test_a_page_says_what_it_could_not_read_of_a_fold(tmp_path):
    info = bare_info(architecture={"hidden": 12000})
    files = {
        "predictions.parquet": packed(table()),
        "metrics.json": b'{"n_left_out": "abc"}',
        "model.json": json.dumps({**info, "sha256": info_digest(info)}).encode(),
    }
    found = gather(
        "x", lambda path: files[path.name], evals=Path("e"), models=[Path("m")], folds=[1]
    )
    assert len(found.missing) == 2
    assert (found.first.metrics, found.first.info) == ({}, {})


def test_the_page_of_an_experiment_needs_no_torch():
    code = """
import sys

class NoTorch:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "torch":
            raise ImportError(name)

sys.meta_path.insert(0, NoTorch())
import cli.report
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


# params.yaml


@pytest.mark.parametrize(
    "value",
    [
        *("010", "1:00", "yes", "no", "on", "1e-06", "0o10", "0x1F", "1_000", "~", "null", "Null"),
        *(".5", "1.", "+1", "'1'", "true", "False", "y", "1e3", "-.inf", "12:30:45", "0b11", "[1]"),
    ],
)
def test_a_value_means_here_what_it_means_to_dvc(value):
    text = f"a: {value}"
    assert parse_mapping(text.encode(), "p") == parse_yaml(text, "p")


@pytest.mark.parametrize(
    "text",
    [
        *("a: &x [1]\nb: *x", "%YAML 1.1\n---\na: 010", "a: !!int 1", "a: !!python/name:os.system"),
        *("a: 1\na: 2", "a: {b: 1, b: 2}", "[1]", "", "a: \x01", "a: 1\n---\nb: 2", "? [1]\n: 2"),
        *("a: " + "[" * 200_000, "? " * 200_000, "a: 0x" + "f" * 600_000, "a: " + "9" * 600_000),
        *("%YAML 1.1\n---\na: " + "1:" * 300_000 + "1", "a: [" + "1," * 500_000 + "]"),
        "\n".join(f"k{n}: {n}" for n in range(60_000)),
        "#" * 2**21,
    ],
)
def test_yaml_that_could_hurt_is_one_line(text):
    with pytest.raises(ConfigError) as error:
        parse_mapping(text.encode(), "p.yaml")
    assert one_line(error).startswith("p.yaml")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("train.epoch=3", "train.epochs"),
        ("trian.epochs=3", "train.epochs"),
        ("epochs=3", "train.epochs"),
        ("batch=3", "train.batch and eval.batch"),
        ("model.stridee=3", "model.stride"),
        ("train.clip_grad=None", "null"),
        ("data.folds=1", "[1]"),
        ("train.recompute=yes", "true"),
    ],
)
def test_a_key_or_value_that_is_almost_right_is_told_how_it_is_right(override, told):
    with pytest.raises(ConfigError) as error:
        load_config(Path(__file__).parents[1] / "params.yaml", [override])
    assert told in one_line(error)


# lists


def test_a_list_that_is_no_file_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "zero.csv").symlink_to("/dev/zero")
    (tmp_path / "folder.csv").mkdir()
    for name in ("pipe.csv", "zero.csv", "folder.csv"):
        with pytest.raises(DataError, match=name) as error:
            read_text(tmp_path, Path(name))
        one_line(error)


@pytest.mark.parametrize(
    "text",
    [
        "path,label,split," + "x" * 131_073 + "\na.mp4,happy,train,\n",
        "x" * 131_073,
        'path,label,split\n"' + "x" * 131_073 + '",happy,train\n',
        "path,label,split\n" + "x" * 131_073 + ",happy,train\n",
        "path,label,split\na.mp4," + "x" * 131_073 + ",train\nb.mp4,sad,test\n",
        "path,label,split\na.mp4,happy," + "x" * 131_073 + "\n",
    ],
)
def test_a_field_of_131073_characters_is_one_line(tmp_path, text):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError) as error:
        read_table(Data(name="own", root=str(tmp_path), splits="a.csv"))
    one_line_of_list = str(error.value)
    assert one_line_of_list.isprintable()
    assert len(one_line_of_list) < 5000


def test_a_label_outside_the_classes_says_what_to_do(tmp_path):
    lines_ = ["path,label,split", "a.mp4,happy,train", "b.mp4,contempt,train", "c.mp4,sad,test"]
    (tmp_path / "a.csv").write_text("\n".join(lines_))
    for name in "abc":
        (tmp_path / f"{name}.mp4").touch()
    notes: list[str] = []
    data = Data(name="own", root=str(tmp_path), splits="a.csv", classes=list(BASIC))
    read_table(data, on_note=notes.append)
    assert len(notes) == 1
    assert "'contempt'" in notes[0]
    assert "add it" in notes[0]


# answers


@pytest.mark.parametrize(
    ("name", "value"), [("running_var", -1.0), ("classifier", 3e38), ("classifier", float("nan"))]
)
def test_finite_weights_with_answers_that_are_not_are_an_error(name, value):
    torch.manual_seed(0)
    settings = {"name": "safe", "backbone": "small", "temporal": "s2am2", "hidden": 4}
    model = build_model(7, **settings, window=4, stride=4, dropout=0.0, weights=None).eval()
    state = model.state_dict()
    for key in state:
        if name in key:
            state[key].fill_(value)
    model.load_state_dict(state)
    answer = Inference(
        model,
        crop=32,
        device=torch.device("cpu"),
        precision=torch.float32,
        name="m/the.safetensors",
    )
    with pytest.raises(ModelError, match=r"m/the\.safetensors: .*not finite") as error:
        answer(torch.randint(0, 256, (2, 16, 32, 32, 3), dtype=torch.uint8))
    one_line(error)


# text


def test_nothing_that_a_terminal_acts_on_is_printed(capsys):
    say(ACTIVE)
    note(ACTIVE)
    with progress(ACTIVE, 1) as done:
        done(1)
    for line in lines({ACTIVE: {ACTIVE: ACTIVE}, "rows": [{ACTIVE: ACTIVE}]}):
        assert line.isprintable()
    told = capsys.readouterr()
    assert "\x1b[31m" not in told.out + told.err
    assert "\u202e" not in told.out + told.err
    assert str(SafeError(ACTIVE)).isprintable()
    assert explain(FileNotFoundError(2, "x", ACTIVE)).isprintable()


def test_a_card_shows_foreign_text_as_words():
    html = MarkdownIt("commonmark").enable("table").render(f"It is {_escaped(ACTIVE)}, and so on.")
    assert html.startswith("<p>It is ")
    for tag in ("<script", "<h1", "<a ", "<code", "<em", "<td"):
        assert tag not in html
    assert "alert(1)" in html


# the files of a stranger that were found to hurt


@pytest.mark.parametrize("name", ["attention-nan", "bomb", "label-100"])
def test_cases_of_predictions(name):
    path = CASES / "predictions" / name / "predictions.parquet"
    if not path.is_file():
        pytest.skip("the cases are not here")
    with pytest.raises(DataError) as error:
        parse_predictions(path.read_bytes(), "x")
    one_line(error)


@pytest.mark.parametrize("packing", ["snappy", "zstd", "none"])
def test_the_footer_is_what_pyarrow_reads_and_no_flipped_bit_ends_the_process(tmp_path, packing):
    path = tmp_path / "a.parquet"
    lists = pa.array([[0.5, 1.0]] * 50, pa.list_(pa.float32()))
    table = pa.table({"clip": [f"{n:05d}" for n in range(50)], "logits": lists})
    pq.write_table(table, path, compression=packing, row_group_size=30)
    data, about = path.read_bytes(), pq.read_metadata(path)
    right = [
        (part.path_in_schema.partition(".")[0], part.compression, set(part.encodings),
         part.num_values, part.total_uncompressed_size)
        for group in map(about.row_group, range(2))
        for part in map(group.column, range(2))
    ]  # fmt: skip
    found = read_footer(data, groups=2)
    assert right == [(c.column, c.codec, {*c.encodings}, c.values, c.unpacked) for c in found]
    with pytest.raises(ValueError, match="2 row groups"):
        list(read_footer(data, groups=1))
    columns = {"clip": Column(pa.string()), "logits": Column(pa.list_(pa.float32()), 2)}
    for position in range(about.serialized_size):  # pyarrow alone aborts at some of these
        altered = bytearray(data)
        altered[len(data) - 9 - position] ^= 1 << position % 8
        with contextlib.suppress(ValueError):
            read_columns(bytes(altered), columns, rows=50)
