"""From a sheet to DVC's queue and back: what is run, what is held, and the whole way once."""

import itertools
import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from dvc_project import ENV, commit_all, copy_repository, dvc, work_off_queue
from PIL import Image
from support import ROOT

from cli.experiments import gather, run_queue
from cli.render import render, run_table
from pipeline.datasets.registry import check_data
from safe.errors import ConfigError, SafeError
from safe.evaluation.held import (
    Held,
    identity,
    is_of_its_params,
    matching,
    parse_shown,
    read_out,
)
from safe.evaluation.metrics import summarize
from safe.evaluation.sheet import Planned, find_sheet, hydra_text, plan, read_settings
from safe.params import load_config

PAPER_SCALE = ("shard.size=128", "augment.crop=112", "model.backbone=r3d_18", "model.hidden=512")
NAMES = sorted(path.stem for path in (ROOT / "experiments").glob("*.yaml"))


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch):
    monkeypatch.chdir(ROOT)


def planned(name: str, *sets: str, seeds: int = 1, **settings) -> list[Planned]:
    sheet = find_sheet(name)
    some = sheet.model_copy(update={"seeds": sheet.seeds[:seeds]})
    return plan(some, settings=settings, sets=sets, check=check_data)


@pytest.mark.parametrize("name", NAMES)
def test_every_run_is_valid_here_and_at_the_papers_size(name):
    odd = ["block 7", "block 14", "block 28", "block 32"] if name == "fig4" else []  # a crop of 48
    assert [one.run.row for one in planned(name) if one.refused] == odd
    refused = [one for one in planned(name, *PAPER_SCALE) if one.refused]
    assert [one.run.row for one in refused] == (["block 32"] if name == "fig4" else [])
    for one in refused:
        assert "tam.block: 32 must divide augment.crop, 112" in one.refused


def test_the_benchmark_takes_every_sheet_of_the_papers_ablations():
    settings = read_settings("benchmark")
    for name in (
        "table3",
        "table4",
        "table5",
        "table6",
        "table7",
        "fig6_7",
        "fig8",
        "fig9",
        "time",
    ):
        runs = planned(name, **settings)
        assert not [one.refused for one in runs if one.refused]
        assert {one.config.synthesize.clips for one in runs} == {4000}


def test_table_iv_is_the_eight_combinations_once_a_seed():
    runs = planned("table4", seeds=3)
    assert len(runs) == 24
    assert len({one.name for one in runs}) == 24
    found = {}
    for one in runs:
        config = one.config
        assert config.acl.cal == config.acl.fcl
        assert config.data.folds == [5]
        found[one.run.row, one.run.seed] = (
            config.tam.strategy == "tam",
            config.model.temporal == "s2am2",
            config.acl.cal,
        )
    for seed in range(3):
        of_seed = [parts for (_, of), parts in found.items() if of == seed]
        assert sorted(of_seed) == sorted(itertools.product([False, True], repeat=3))
        assert found["baseline", seed] == (False, False, False)
        assert found["TAM+ACL", seed] == (True, False, True)
        assert found["SAFE", seed] == (True, True, True)


def test_the_same_model_in_two_tables_is_one_run():
    ids = {}
    for name in ("table3", "table4", "table5", "table6", "table7"):
        ids |= {(name, one.run.row): identity(one.config) for one in planned(name)}
    safe = ids["table4", "SAFE"]
    for key in (("table3", "TAM"), ("table5", "top-1"), ("table6", "both")):
        assert ids[key] == safe, key
    assert ids["table7", "SAFE, clean"] == safe != ids["table7", "SAFE, noise"]
    assert (
        ids["table3", "none"] == ids["table4", "S2AM2+ACL"] == ids["table7", "without TAM, clean"]
    )


def test_settings_come_before_the_sheet_and_a_clash_is_told():
    runs = planned("table3", "train.epochs=3", **{"train.lr": 0.5, "tam.strategy": "frame"})
    assert {(one.config.train.lr, one.config.train.epochs) for one in runs} == {(0.5, 3)}
    assert [one.config.tam.strategy for one in runs][:2] == ["none", "random"]
    with pytest.raises(ConfigError, match=r"-S tam\.strategy=none: the sheet table3 sets"):
        planned("table3", "tam.strategy=none")
    with pytest.raises(ConfigError, match=r"unknown key 'train\.epocs'"):
        planned("table3", "train.epocs=3")
    with pytest.raises(ConfigError, match="the sheets there are: table1, table2"):
        find_sheet("table8")


def test_settings_are_a_flat_file(tmp_path):
    path = tmp_path / "fast.yaml"
    path.write_text("train.epochs: 2\ntrain.lr: 1e-4\nmodel.weights: null\n")
    assert read_settings(str(path)) == {
        "train.epochs": 2,
        "train.lr": 1e-4,
        "model.weights": None,
    }
    path.write_text("train: {epochs: 2}\n")
    with pytest.raises(ConfigError, match=rf"{path}: train"):
        read_settings(str(path))
    with pytest.raises(ConfigError, match=r"settings/none\.yaml not found"):
        read_settings("none")


@pytest.mark.parametrize(
    "text",
    ["/data/DFEW", "a b", "it's", "a\\'b", "true", "NULL", "[1]", "a,b", "3", "x=y", "ä", "\\"],
)
def test_a_text_comes_back_as_it_was(text):
    line = f"data.root={hydra_text(text)}"
    assert load_config(ROOT / "params.yaml", [line]).data.root == text


def test_other_values_come_back_as_they_were():
    values = {"train.lr": 5e-06, "train.clip_grad": None, "acl.cal": False, "data.folds": [1, 2]}
    values |= {"train.lr_min": 1e-06}
    lines = [f"{key}={hydra_text(value)}" for key, value in values.items()]
    config = load_config(ROOT / "params.yaml", lines)
    assert (config.train.lr, config.train.lr_min) == (5e-06, 1e-06)
    assert config.train.clip_grad is None
    assert config.acl.cal is False
    assert config.data.folds == [1, 2]


RAW = yaml.safe_load((ROOT / "params.yaml").read_text())


def entry(rev: str, created: str, *, metrics: bool = True, **changes) -> dict:
    """What DVC says about one revision; `changes` are dotted with two _."""
    params = json.loads(json.dumps(RAW))
    for key, value in changes.items():
        section, name = key.split("__")
        params[section][name] = value
    figures = {"data": {"uar": 50.0}} if metrics else {"error": {"type": "FileNotFoundError"}}
    files = {"params.yaml": {"data": params}}
    shown = {"timestamp": created, "params": files, "metrics": {"results/metrics.json": figures}}
    return {"rev": rev * 40, "name": None, "data": shown, "error": None}


def experiment(name: str, state: str | None, of: dict) -> dict:
    return {"name": name, "executor": state and {"state": state}, "revs": [{**of, "name": name}]}


def test_what_exp_show_says_is_read():
    waits = entry("5", "2026-01-05", metrics=False)
    shown = [
        {**entry("0", "2026-01-09"), "rev": "workspace"},
        {
            **entry("1", "2026-01-01"),
            "name": "main",
            "experiments": [
                experiment("old", None, entry("2", "2026-01-02")),
                experiment("new", "success", entry("3", "2026-01-03", train__lr=0.5)),
                experiment("bad", "failed", entry("4", "2026-01-04", metrics=False)),
                experiment("runs", "running", waits),
                experiment("waits", "queued", waits),
            ],
        },
        {**entry("6", "2025-01-01", metrics=False), "experiments": None},
        {"rev": "7" * 40, "name": None, "data": None, "error": {"msg": "broken"}},
    ]
    found = list(parse_shown(shown))
    assert [(one.name, one.state) for one in found] == [
        ("main", "done"),
        ("old", "done"),
        ("new", "done"),
        ("bad", "failed"),
        ("runs", "waiting"),
        ("waits", "waiting"),
    ]
    assert {one.commit for one in found} == {"1" * 40}
    new = found[2]
    assert (new.rev, new.created, new.metrics) == ("3" * 40, "2026-01-03", {"uar": 50.0})
    assert new.params["train"]["lr"] == 0.5


def one(created: str, **changes) -> Held:
    shown = entry("1", created, **changes)
    return next(parse_shown([{**shown, "experiments": []}]))


def test_the_newest_run_with_the_same_parameters_matches():
    config = load_config(ROOT / "params.yaml")
    other = [
        one("2026-03", train__lr=0.5),
        one("2026-03", synthesize__clips=901),
        one("2026-03", data__folds=[2]),
        one("2026-03", train__new=1),  # of another version of the code: does not parse
    ]
    assert matching(config, other) is None
    same = [one("2026-01"), one("2026-02", runtime__workers=7), one("2026-01-20")]
    assert matching(config, other + same).created == "2026-02"
    assert matching(config, [one("2026-01", data__root="/elsewhere")]) is not None
    assert matching(config, [one("2026-01", data__folds=[2, 1])]) is not None


def test_how_synthetic_data_are_made_counts_only_for_them():
    config = load_config(ROOT / "params.yaml", ["data.name=dfew"])
    assert matching(config, [one("2026-01")]) is None
    assert matching(config, [one("2026-01", data__name="dfew", synthesize__clips=901)])


def lock(**changes) -> dict:
    """A dvc.lock of three stages, as far as it is read; `changes` replace what train stands on."""
    train = {"acl": RAW["acl"], "train": RAW["train"], "seed": 0} | changes.pop("params", {})
    stages = {
        "shard": {
            "params": {"params.yaml": {"shard": RAW["shard"]}},
            "outs": [{"path": "data/x/shards", "md5": "a.dir"}],
        },
        "train@1": {
            "deps": [
                {"path": "data/x/shards", "md5": changes.get("shards", "a.dir")},
                {"path": "safe/training/losses.py", "md5": "c"},
            ],
            "params": {"params.yaml": train},
            "outs": [{"path": "runs/x/train/fold-1", "md5": "b.dir"}],
        },
        "eval@1": {
            "deps": [{"path": "runs/x/train/fold-1", "md5": changes.get("model", "b.dir")}],
            "outs": [{"path": "runs/x/eval/fold-1", "md5": "d.dir"}],
        },
    }
    return {"stages": stages}


def test_figures_of_other_parameters_are_not_taken_for_these():
    assert is_of_its_params(lock(), RAW)
    assert not is_of_its_params({}, RAW)
    assert not is_of_its_params(lock(params={"seed": 1}), RAW)
    assert not is_of_its_params(lock(params={"train": RAW["train"] | {"lr": 0.5}}), RAW)
    assert not is_of_its_params(lock(shards="old.dir"), RAW)
    assert not is_of_its_params(lock(model="old.dir"), RAW)
    assert not is_of_its_params(lock(), RAW | {"data": RAW["data"] | {"folds": [1, 2]}})
    assert not is_of_its_params(lock(), RAW | {"shard": RAW["shard"] | {"size": 96}})


BASE = ("model.temporal=bilstm", "tam.strategy=none", "eval.severity=1", "train.select=val")
SHEET = """
title: Does the order of frames matter?
paper: none
dataset: dfew
draw: table
folds: [1]
seeds: [0]
base: {BASE}
rows:
  as it is: {set: {}}
  reversed: {set: {eval.perturb: reverse}, against: as it is}
  not run: {set: {train.lr: 0.5}}
  published: {set: null, paper: {war: 50}}
""".replace("BASE", ", ".join(BASE).replace("=", ": "))


def test_a_dry_run_prints_what_would_be_queued_also_outside_of_a_repository(
    tmp_path, monkeypatch, capsys
):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "experiments").mkdir()
    sweep = SHEET.replace("  not run: {set: {train.lr: 0.5}}\n", "  again: {set: {}}\n")
    sweep += "  refused: {set: {tam.block: 15}}\n"
    (tmp_path / "experiments" / "tiny.yaml").write_text(sweep)
    monkeypatch.chdir(tmp_path)
    run_queue("tiny", None, ["train.epochs=1"], dry_run=True)
    *commands, refused, last = capsys.readouterr().out.splitlines()
    words = [shlex.split(line) for line in commands]
    assert [of[:5] for of in words] == [["dvc", "exp", "run", "--queue", "-n"]] * 2
    assert words[0][5].startswith("tiny-as-it-is-f1-s0-")
    assert words[1][5].startswith("tiny-reversed-f1-s0-")
    sets = [{word for word in of[6:] if word != "-S"} for of in words]
    assert sets[1] - sets[0] == {"eval.perturb=reverse"}
    assert {"train.epochs=1", "seed=0", "data.folds=[1]", "model.temporal=bilstm"} <= sets[0]
    assert "refused: tiny-refused-f1-s0: params: tam.block: 15 must divide" in refused
    assert "2 queued, 0 held, 0 waiting, 1 the same as another row, 1 refused" in last
    with pytest.raises(SafeError, match="dvc exp show"):
        run_queue("tiny", None, [], dry_run=False)


def test_from_a_sheet_through_the_queue_to_predictions(tiny, tmp_path, monkeypatch, capsys):
    """The run of DVC's queue is a real one; shards and model are in its cache.

    That of the other row is what is committed.
    """
    clone = copy_repository(tiny, tmp_path / "clone", "train.epochs=1", *BASE)
    two = SHEET.replace("  not run: {set: {train.lr: 0.5}}\n", "")
    (clone / "experiments" / "tiny.yaml").write_text(two)
    dvc("repro", clone)
    commit_all(clone)
    monkeypatch.chdir(clone)
    for key, value in ENV.items():
        monkeypatch.setenv(key, value)

    def queue() -> str:
        run_queue("tiny", None, [], dry_run=False)
        return capsys.readouterr().out

    assert "1 queued, 1 held, 0 waiting" in queue()
    assert "0 queued, 1 held, 1 waiting" in queue()
    said = work_off_queue(clone)
    assert said.count("Success") == 1, said
    assert "0 queued, 2 held, 0 waiting" in queue()

    (clone / "experiments" / "tiny.yaml").write_text(SHEET)  # one more row, which nothing has run
    sheet = find_sheet("tiny")
    found = gather(sheet, plan(sheet, settings={}, sets=[]))
    assert {row: list(by_seed) for row, by_seed in found.items()} == {
        "as it is": [0],
        "reversed": [0],
        "not run": [],
        "published": [],
    }
    here, there = found["as it is"][0], found["reversed"][0]
    assert here.split.clip == there.split.clip
    assert len(here.split.clip) == 7
    assert not np.array_equal(here.split.logits, there.split.logits)
    for one in (here, there):  # the figures that DVC shows for the run are those of its predictions
        figures = summarize(one.split.logits, one.split.label, 15, one.split.classes)
        assert figures["nll"] == pytest.approx(one.held[1].metrics["nll"], abs=1e-3)

    run_table("tiny", None, [], clone / "out")
    text = (clone / "out" / "tiny.md").read_text()
    assert capsys.readouterr().out.startswith(text)
    shown = {line.split("|")[1].strip(): line for line in text.splitlines() if "|" in line}
    assert f"{100 * np.mean(here.split.predicted == here.split.label):.2f}" in text
    assert "missing" in shown["not run"]
    assert "not built here" in shown["published"]
    pictures = {"cases": ["tiny.png"], "calibration": ["tiny-as it is.png"]}
    built = {name: row for name, row in sheet.rows.items() if row.set == {} or row.against}
    config = plan(sheet, settings={}, sets=[])[0].config
    whole = sheet.model_copy(update={"draw": "calibration", "rows": built})
    runs = gather(whole, plan(whole, settings={}, sets=[]))
    for draw, names in pictures.items():
        drawn = whole.model_copy(update={"draw": draw})
        _, *files = render(drawn, runs, config, clone / "out" / draw)
        assert [file.name for file in files] == names
        assert all(len(Image.open(file).getcolors(2**24)) > 50 for file in files)  # not blank
    assert here.held[1].params["eval"]["perturb"] == "none"

    shutil.rmtree(clone / ".dvc" / "cache")
    with pytest.raises(SafeError, match="dvc pull"):
        read_out(Path(), here.held[1].rev, "runs/synthetic/eval/fold-1/predictions.parquet")
    gone = gather(sheet, plan(sheet, settings={}, sets=[]))
    assert not any(gone.values())  # a table without them, and no error
    assert "missing: as it is, seed 0: " in capsys.readouterr().out
