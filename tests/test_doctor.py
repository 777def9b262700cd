"""Doctor finds each fault that is planted, says what mends it, and finds nothing where nothing is.

Each test plants one fault in a copy of a small tree (70 drawn clips with shards, a model, its
calibrated twin, predictions) and names all findings of all parts but the machine's.
"""

import csv
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from support import ROOT, SMALL, call, small_config, small_disk

from cli.clean import run_clean
from cli.doctor import examine_machine, plan_gib, run_doctor
from pipeline.datasets.registry import ENTRIES
from pipeline.doctor import examine_dataset, examine_splits, exchanged
from safe.config import Data, Train
from safe.doctor import examine_states
from safe.evaluation.calibration import Calibration
from safe.evaluation.evaluate import evaluate
from safe.finding import Examination
from safe.info import read_info
from safe.models.registry import build_model
from safe.sample import DEFAULT_FRAMES
from safe.saved import save_calibrated, save_model
from safe.shards.folder import open_shards

DATA = Path("data/synthetic")
RAW = Path("data/raw/synthetic")
MANIFEST = DATA / "manifest.parquet"
FACES = DATA / "faces.parquet"
SHARDS = DATA / "shards"
TRAIN, CALIBRATE, EVAL = (
    Path("runs/synthetic", stage, "fold-1") for stage in ("train", "calibrate", "eval")
)
PREDICTIONS = EVAL / "predictions.parquet"


@pytest.fixture(scope="session")
def healthy(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole tree: `project` with a model of fold 1, calibrated and evaluated."""
    folder = tmp_path_factory.mktemp("healthy")
    shutil.copytree(project / "data", folder / "data")
    config = small_config(folder)
    shards = open_shards(folder / SHARDS)
    torch.manual_seed(0)
    info = {
        "classes": shards.classes,
        "architecture": config.model.model_dump(exclude={"weights"}),
        "crop": config.augment.crop,
        "preprocessing": shards.index["preprocessing"],
        "fold": 1,
        "selection": {"rule": "val", "metric": "uar", "epoch": 1},
        "train_clips": len(shards.split(1)[0]) - 8,
        "history": [],
    }
    network = build_model(len(shards.classes), **config.model.model_dump())
    save_model(folder / TRAIN, network.state_dict(), info)
    save_calibrated(folder / CALIBRATE, folder / TRAIN, Calibration(method="temperature", clips=8))
    evaluate(
        folder / CALIBRATE,
        shards=folder / SHARDS,
        fold=1,
        out=folder / EVAL,
        settings=config.eval,
        runtime=config.runtime,
    )
    return folder


@pytest.fixture
def tree(healthy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `healthy` to plant a fault in, as the working directory."""
    shutil.copytree(healthy, tmp_path / "tree")
    monkeypatch.chdir(tmp_path / "tree")
    return tmp_path / "tree"


@pytest.fixture
def doctor(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Run doctor in the working directory and return its JSON object."""

    def run(*overrides: str, **options: Any) -> dict[str, Any]:
        settings = [f"data.root={RAW}", *SMALL, *overrides]
        capsys.readouterr()
        code = run_doctor(ROOT / "params.yaml", settings, as_json=True, **options)
        told = capsys.readouterr()
        assert not told.err
        report: dict[str, Any] = json.loads(told.out)
        assert report["exit_code"] == code
        return report

    return run


def told(report: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Return severity, kind, place and remedy of all findings but the machine's."""
    return [
        tuple(finding[key] for key in ("severity", "kind", "where", "remedy"))
        for finding in report["findings"]
        if finding["part"] != "machine"
    ]


def expect(report: dict[str, Any], code: int, *right: tuple[str, str, Path, str, str]) -> None:
    """Compare all findings with severity, kind, place, and a part of what and of the remedy."""
    found = [finding for finding in report["findings"] if finding["part"] != "machine"]
    keys = [(finding["severity"], finding["kind"], finding["where"]) for finding in found]
    assert keys == [(severity, kind, str(where)) for severity, kind, where, _, _ in right]
    for finding, (_, _, _, what, remedy) in zip(found, right, strict=True):
        assert what in finding["what"]
        assert remedy in finding["remedy"]
    assert report["exit_code"] == code


def rewrite(path: Path, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    """Change the rows of a parquet file; its columns stay as they are."""
    table = pq.read_table(path)
    pq.write_table(pa.Table.from_pylist(change(table.to_pylist()), table.schema), path)


def change_index(change: Callable[[dict[str, Any]], object]) -> None:
    index = json.loads((SHARDS / "index.json").read_text())
    change(index)
    (SHARDS / "index.json").write_text(json.dumps(index))


def change_model(folder: Path, **values: Any) -> None:
    """Write a model folder again with other values in its model.json, checksums that fit."""
    info = read_info(folder / "model.json")
    network = build_model(len(info["classes"]), **info["architecture"], weights=None)
    weights = network.state_dict()
    own = {key: info[key] for key in info if key not in ("format", "weights", "sha256")}
    save_model(folder, weights, {**own, **values})


def clips_of(fold: int) -> list[str]:
    table = pq.read_table(MANIFEST)
    return table.filter(pc.equal(table["bucket"], f"fold{fold}"))["clip"].to_pylist()


def raw(clip: str) -> Path:
    return RAW / "Clip/original" / f"{clip}.mp4"


def test_nothing_is_found_on_a_healthy_tree(tree, doctor):
    before = {path: path.read_bytes() for path in tree.rglob("*") if path.is_file()}
    report = doctor()
    assert report["counts"]["error"] == report["counts"]["warning"] == 0
    expect(report, 0)
    facts = report["facts"]
    assert facts["dataset"]["clips"] == facts["shards"]["clips"] == facts["faces"]["clips"] == 70
    assert sum(facts["dataset"]["buckets"].values()) == 70
    assert (facts["models"]["train"], facts["predictions"]["eval"]) == ("fold 1", "fold 1")
    assert facts["machine"]["torch"] == torch.__version__
    changed = {path for path in tree.rglob("*") if path.is_file()} - before.keys()
    assert {path.relative_to(tree).parent for path in changed} == {Path(".safe/seen")}
    assert all(path.read_bytes() == data for path, data in before.items())


def test_a_tree_of_shards_and_runs_alone_is_no_error(tree, doctor):
    shutil.rmtree(RAW)
    MANIFEST.unlink()
    FACES.unlink()
    nothing = "train and eval need the shards only"
    expect(
        doctor(),
        0,
        ("note", "index-absent", MANIFEST, "not here", nothing),
        ("note", "raw-absent", RAW, "no raw clips", nothing),
        ("note", "faces-absent", FACES, "not here", nothing),
    )


def test_an_empty_folder_is_told_which_commands_come_next(tmp_path, monkeypatch, doctor):
    monkeypatch.chdir(tmp_path)
    report = doctor()
    verbs = ("index", "synthesize", "faces", "shard", "train")
    assert [remedy.split("`")[1] for _, _, _, remedy in told(report)] == [
        f"safe-cli {verb}" for verb in verbs
    ]
    assert report["exit_code"] == 0
    assert report["counts"]["note"] >= len(verbs)
    assert not list(tmp_path.iterdir())


# The dataset


def test_a_wrong_label_map(tree, doctor):
    def exchange(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        other = {0: 1, 1: 0}
        return [{**row, "label": other.get(row["label"], row["label"])} for row in rows]

    counts = pq.read_table(MANIFEST)["label"].to_pylist()
    wrong = counts.count(0) + counts.count(1)
    rewrite(MANIFEST, exchange)
    report = doctor()
    expect(
        report,
        2,
        ("error", "index-labels", MANIFEST, f"{wrong} clips with another label", "safe-cli index"),
        ("error", "shards-labels", SHARDS, f"{wrong} clips with another label", "safe-cli shard"),
    )
    assert "(sad, listed as happy)" in report["findings"][-2]["what"]


def official_tree(shared: Path, folder: Path, name: str) -> Data:
    """Lay the official lists beside empty files that stand for a few clips."""
    splits = {"dfew": "EmoLabel_DataSplit", "ferv39k": "4_setups"}[name]
    shutil.copytree(shared / "data/official_splits" / name / splits, folder / splits)
    clips = {
        "dfew": "Clip/original/00001.mp4",
        "ferv39k": "0_7_LabelClips/Action/Happy/0267.mp4",
    }
    (folder / clips[name]).parent.mkdir(parents=True)
    (folder / clips[name]).touch()
    return Data(name=name, root=str(folder), splits=splits, source="video", folds=[1])


def of_lists(report: dict[str, Any]) -> list[dict[str, Any]]:
    return [finding for finding in report["findings"] if finding["kind"].startswith("official")]


@pytest.mark.parametrize("name", ["dfew", "ferv39k"])
def test_official_counts(shared, tmp_path, monkeypatch, doctor, name):
    data = official_tree(shared, tmp_path / "raw", name)
    monkeypatch.chdir(tmp_path)
    override = "data=" + json.dumps(data.model_dump()).replace('"', "").replace(" ", "")
    report = doctor(override)
    assert report["facts"]["dataset"]["official_counts"] is True
    assert not of_lists(report)
    lists = [path for path in (tmp_path / "raw" / data.splits).rglob("*.csv")]
    for path in lists:
        text = path.read_text()
        if name == "dfew":  # a release whose 4 and 6 mean one another
            turned = text.replace(",4", ",x").replace(",6", ",4").replace(",x", ",6")
        else:
            turned = text.replace("Angry", "x").replace("Disgust", "Angry").replace("x", "Disgust")
        assert turned != text
        path.write_text(turned)
    report = doctor(override)
    (found,) = of_lists(report)
    assert (found["severity"], found["kind"]) == ("error", "official-labels")
    assert found["where"] == str(tmp_path / "raw" / data.splits)
    assert "angry has the clips of disgust, disgust has the clips of angry" in found["what"]
    assert "as they were released" in found["remedy"]
    assert report["exit_code"] == 2


def test_a_list_that_is_not_the_released_one(shared, tmp_path, monkeypatch, doctor):
    data = official_tree(shared, tmp_path / "raw", "ferv39k")
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "raw" / data.splits / "All_scenes" / "test_All.csv"
    lines = path.read_text().splitlines(keepends=True)
    first = next(line for line in lines if line.endswith(" Fear\n"))
    path.write_text("".join(line for line in lines if line != first))
    override = "data=" + json.dumps(data.model_dump()).replace('"', "").replace(" ", "")
    (found,) = of_lists(doctor(override))
    assert (found["severity"], found["kind"]) == ("warning", "official-counts")
    assert "(38,934 clips, officially 38,935)" in found["what"]
    assert "test has 430 clips of fear, officially 431" in found["what"]


def test_official_counts_are_those_of_the_papers():
    """DFEW fold 1: 9,356 and 2,341 clips; FERV39k: 31,088 and 7,847."""
    dfew, ferv39k = ENTRIES["dfew"], ENTRIES["ferv39k"]
    sums = {bucket: sum(counts) for bucket, counts in dfew.official.items()}
    assert (sum(sums.values()) - sums["fold1"], sums["fold1"]) == (9356, 2341)
    assert {bucket: sum(counts) for bucket, counts in ferv39k.official.items()} == {
        "train": 31_088,
        "test": 7_847,
    }
    assert not exchanged(dfew.official, dfew.official, dfew.classes)
    assert not exchanged(dfew.official, ferv39k.official, dfew.classes)


def test_a_leaked_clip(tree, doctor):
    """A test clip's bytes lie where a training clip was; sizes and shards tell of it too."""
    test, train = clips_of(1)[0], clips_of(2)[0]
    shutil.copyfile(raw(test), raw(train))
    same = f"{test} (fold1) = {train} (fold2)"
    report = doctor()
    leak = [finding for finding in report["findings"] if finding["kind"] == "raw-leak"]
    assert [finding["severity"] for finding in leak] == ["error"]
    assert same in leak[0]["what"]
    assert f"safe-cli forget {train}" in leak[0]["remedy"]
    assert report["exit_code"] == 2
    assert {kind for _, kind, _, _ in told(report)} == {"raw-leak", "raw-changed"}
    quick = doctor(quick=True)
    assert {kind for _, kind, _, _ in told(quick)} == {"raw-changed"}


def test_the_same_clip_twice_in_a_fold_is_a_warning(tree, doctor):
    one, two = clips_of(3)[:2]
    shutil.copyfile(raw(one), raw(two))
    found = [entry[:2] for entry in told(doctor())]
    assert found == [("error", "raw-changed"), ("warning", "raw-twice")]


def test_leaked_faces(tree, doctor):
    """The shards were made of the leaked clip, and the raw clips are gone since."""
    shards = open_shards(SHARDS)
    rows = [int(shards.split(fold)[1][0]) for fold in (1, 2)]
    keys = [str(shards.clip[row]) for row in rows]
    shutil.rmtree(RAW)
    remake_shards({keys[1]: strip_of(rows[0])})
    absent = ("note", "raw-absent", RAW, "no raw clips", "nothing to do")
    same = f"{keys[0]} (fold1) = {keys[1]} (fold2)"
    expect(
        doctor(),
        2,
        absent,
        ("error", "faces-leak", SHARDS, same, f"safe-cli forget {keys[1]}"),
    )


def strip_of(row: int) -> bytes:
    shards = open_shards(SHARDS)
    with (SHARDS / shards.files[shards.shard[row]]).open("rb") as tar:
        tar.seek(int(shards.offset[row]))
        return tar.read(int(shards.size[row]))


def remake_shards(strips: dict[str, bytes], *, without: Sequence[str] = (), **changes: Any) -> None:
    """Write the shards again as the pipeline does, with other strips for some clips."""
    from pipeline.tars import ShardWriter, write_index

    shards = open_shards(SHARDS)
    had = {str(key): strip_of(row) for row, key in enumerate(shards.clip)}
    labels = dict(zip(shards.clip.tolist(), shards.label.tolist(), strict=True))
    buckets = dict(zip(shards.clip.tolist(), shards.bucket.tolist(), strict=True))
    left_out = shards.index["left_out"]
    made = {**shards.index["preprocessing"], **changes}
    shutil.rmtree(SHARDS)
    SHARDS.mkdir()
    writer = ShardWriter(SHARDS, clips=5, classes=shards.classes)
    for key, strip in (had | strips).items():
        if key not in without:
            record = {"clip": key, "label": shards.classes[labels[key]], "flags": ""}
            writer.add(key, bucket=buckets[key], label=labels[key], strip=strip, record=record)
    writer.close()
    write_index(
        SHARDS,
        shards=writer.shards,
        left_out=left_out,
        made=made,
        classes=shards.classes,
        rows=writer.rows,
    )


def test_a_missing_raw_clip(tree, doctor):
    clip = clips_of(1)[0]
    raw(clip).unlink()
    expect(
        doctor(),
        2,
        (
            "error",
            "raw-missing",
            RAW,
            f"1 raw clip gone since the index was made: Clip/original/{clip}.mp4",
            "copy it from the dataset",
        ),
    )


def test_a_truncated_raw_clip(tree, doctor):
    clip = clips_of(1)[0]
    size = raw(clip).stat().st_size
    os.truncate(raw(clip), size // 2)
    what = f"Clip/original/{clip}.mp4 ({size // 2:,} bytes, were {size:,})"
    expect(doctor(), 2, ("error", "raw-changed", RAW, what, "copy it from the dataset"))


def test_a_clip_that_was_missing_and_one_that_still_is(tree, doctor):
    back, never = clips_of(1)[:2]
    raw(never).unlink()

    def lose(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [
            {**row, "bytes": None if row["clip"] in (back, never) else row["bytes"]} for row in rows
        ]

    rewrite(MANIFEST, lose)
    expect(
        doctor(),
        1,
        ("warning", "raw-back", RAW, f"there now: Clip/original/{back}.mp4", "safe-cli index"),
        ("warning", "raw-never", RAW, f"without a file: Clip/original/{never}.mp4", "left out"),
    )


def move_clip(clip: str, *, here: int, there: int) -> None:
    """Move a clip from the test set of a fold to another's, in all the lists."""
    lists = RAW / "EmoLabel_DataSplit"
    for path in lists.rglob("set_*.csv"):
        fold, test = int(path.stem[-1]), path.parent.name.startswith("test")
        with path.open(newline="") as file:
            header, *lines = list(csv.reader(file))
        mine = [line for line in lines if int(line[0]) == int(clip)]
        if test and fold == here:
            lines.remove(mine[0])
            moved = mine[0]
        elif not test and fold == there:
            lines.remove(mine[0])
        path.write_text("".join(",".join(line) + "\n" for line in [header, *lines]))
    for part, fold in (("test", there), ("train", here)):
        (path,) = lists.glob(f"{part}*/set_{fold}.csv")
        with path.open("a") as file:
            file.write(",".join(moved) + "\n")


def test_a_stale_index(tree, doctor):
    clip = clips_of(2)[0]
    move_clip(clip, here=2, there=4)
    what = f"1 clip in another fold than in the lists: {clip} (fold2, listed in fold4)"
    expect(doctor(), 2, ("error", "index-folds", MANIFEST, what, "safe-cli index"))


def test_folds_that_are_not_disjoint(tree, doctor):
    clip = clips_of(2)[0]
    (path,) = (RAW / "EmoLabel_DataSplit").glob("test*/set_4.csv")
    with path.open("a") as file:
        file.write(f"{int(clip)},1\n")
    what = f"clip {int(clip)} is in the test sets of folds 2 and 4"
    expect(doctor(), 2, ("error", "lists", RAW / "EmoLabel_DataSplit", what, "as they were"))


def test_a_forgotten_clip_that_is_still_there(tree, doctor):
    clip = clips_of(1)[0]
    Path("forgotten.csv").write_text(f"dataset,clip\nsynthetic,{clip}\n")
    remedy = f"`safe-cli forget {clip}`"
    expect(
        doctor(),
        2,
        ("error", "forgotten", MANIFEST, f"1 clip of forgotten.csv: {clip}", remedy),
        ("error", "forgotten", SHARDS, f"1 clip of forgotten.csv: {clip}", remedy),
        ("error", "forgotten", PREDICTIONS, f"1 clip of forgotten.csv: {clip}", remedy),
    )


# The face table


def test_a_face_table_with_missing_rows(tree, doctor):
    rows = pq.read_table(FACES)["clip"].to_pylist()
    rewrite(FACES, lambda rows: rows[2:])
    what = f"no row for 2 clips of the manifest: {rows[0]}, {rows[1]}"
    expect(doctor(), 2, ("error", "faces-rows", FACES, what, "safe-cli faces"))


def test_a_face_table_with_errors_and_odd_rows(tree, doctor):
    def spoil(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        rows[0] |= {"status": "error", "reason": "no video stream", "frame_index": []}
        rows[1]["frame_index"] = rows[1]["frame_index"][: DEFAULT_FRAMES - 1]
        return rows

    rewrite(FACES, spoil)
    first, second = pq.read_table(FACES)["clip"].to_pylist()[:2]
    expect(
        doctor(),
        2,
        ("error", "faces-damaged", FACES, second, "safe-cli faces"),
        ("note", "faces-errors", FACES, f"{first} (no video stream)", "left out"),
    )


# The shards


def test_every_altered_shard_is_named(tree, doctor):
    names = ["fold2-000001.tar", "fold4-000000.tar"]
    for name in names:
        data = bytearray((SHARDS / name).read_bytes())
        data[5000] ^= 1
        (SHARDS / name).write_bytes(data)
    expect(
        doctor(),
        2,
        *(
            ("error", "shard-damaged", SHARDS / name, "damaged or altered", "safe-cli shard")
            for name in names
        ),
    )
    expect(doctor(quick=True), 0)


def test_a_missing_and_a_cut_shard(tree, doctor):
    (SHARDS / "fold3-000000.tar").unlink()
    os.truncate(SHARDS / "fold1-000000.tar", 2048)
    expect(
        doctor(),
        2,
        (
            "error",
            "shard-missing",
            SHARDS,
            "index.json missing: fold3-000000.tar",
            "safe-cli shard",
        ),
        ("error", "shard-size", SHARDS, "in index.json: fold1-000000.tar", "safe-cli shard"),
    )


def test_shards_of_an_old_format(tree, doctor):
    change_index(lambda index: index.update(format=1))
    what = "shard format 1, this version reads 3"
    expect(doctor(), 2, ("error", "shards", SHARDS / "index.json", what, "safe-cli shard"))


def test_a_left_out_sum_that_is_wrong(tree, doctor):
    entry = {"clip": "99999", "bucket": "fold1", "reason": "zero bytes"}
    change_index(lambda index: index["left_out"].append(entry))
    what = "70 in shards + 1 left out, manifest 70: has beside it 99999"
    expect(doctor(), 2, ("error", "shards-sum", SHARDS, what, "safe-cli shard"))


def test_a_clip_that_neither_shards_nor_left_out_have(tree, doctor):
    clip = clips_of(2)[0]
    remake_shards({}, without=[clip])
    what = f"69 in shards + 0 left out, manifest 70: lacks {clip}"
    expect(doctor(), 2, ("error", "shards-sum", SHARDS, what, "safe-cli shard"))


def test_shards_of_other_settings_than_params_has_now(tree, doctor):
    what = "margin 0.1, now 0.3, quality 90, now 80"
    report = doctor("shard.margin=0.3", "shard.quality=80")
    expect(report, 1, ("warning", "shards-settings", SHARDS, what, "set the parameters back"))


def test_a_preprocessing_id_that_is_not_of_its_settings(tree, doctor):
    change_index(lambda index: index["preprocessing"].update(id="0" * 16))
    report = doctor()
    assert [entry[1] for entry in told(report)] == [
        *("shards-id", "model-preprocessing", "model-preprocessing"),
    ]
    assert report["exit_code"] == 2


# Models and predictions


def test_a_model_of_a_foreign_preprocessing(tree, doctor):
    change_model(TRAIN, preprocessing={"id": "0123456789abcdef", "made_from": {"size": 48}})
    right = open_shards(SHARDS).preprocessing_id
    what = f"trained on preprocessing 0123456789abcdef, the shards have {right}"
    remedy = "`safe-cli train --fold 1`"
    expect(doctor(), 2, ("error", "model-preprocessing", TRAIN, what, remedy))


def test_a_model_of_another_fold(tree, doctor):
    change_model(TRAIN, fold=3)
    what = "trained for fold 3: fold 1's test clips trained it"
    expect(doctor(), 2, ("error", "model-fold", TRAIN, what, "`safe-cli train --fold 1`"))


def test_a_model_of_clips_that_were_taken_out(tree, doctor):
    change_model(TRAIN, train_clips=1000)
    what = "trained on 1,000 clips, the shards have 56 for it"
    expect(doctor(), 1, ("warning", "model-clips", TRAIN, what, "`safe-cli train --fold 1`"))


@pytest.mark.parametrize(
    ("name", "what", "quick"),
    [
        ("model.json", "damaged", True),
        ("model.safetensors", "its checksum is not that of model.json", False),
    ],
)
def test_a_damaged_model(tree, doctor, name, what, quick):
    data = (TRAIN / name).read_bytes()
    (TRAIN / name).write_bytes(data[: len(data) // 2])
    remedy = "`safe-cli train --fold 1`"
    expect(doctor(quick=quick), 2, ("error", "model", TRAIN / name, what, remedy))


def test_a_model_that_is_not_calibrated(tree, doctor):
    save_calibrated(CALIBRATE, TRAIN, Calibration())
    note = ("note", "model-uncalibrated", CALIBRATE, "no clips", "train.select=val")
    expect(doctor(), 2, note, ("error", "record", EVAL, "", "safe-cli eval"))
    shutil.rmtree(CALIBRATE.parent)
    expect(doctor(), 0, ("note", "calibrate-absent", CALIBRATE.parent, "fold 1", "safe-cli calib"))


def test_a_model_that_is_calibrated_on_test_clips(tree, doctor):
    clips = clips_of(1)
    fitted = CALIBRATE / "predictions.parquet"
    rows = pq.read_table(PREDICTIONS)
    train = [{**row, "clip": key} for row, key in zip(rows.to_pylist(), clips_of(2), strict=False)]
    pq.write_table(pa.Table.from_pylist(train, rows.schema), fitted)
    expect(doctor(), 0)
    pq.write_table(rows, fitted)
    what = f"calibrated on {len(clips)} clips of the test split: {clips[0]}"
    remedy = "`safe-cli calibrate --fold 1`"
    expect(doctor(), 2, ("error", "calibrate-leak", fitted, what, remedy))


def test_predictions_without_their_figures(tree, doctor):
    (EVAL / "metrics.json").unlink()
    remedy = "`safe-cli eval --fold 1`"
    expect(doctor(), 2, ("error", "predictions-metrics", EVAL, "metrics.json is missing", remedy))


def test_predictions_of_other_clips(tree, doctor):
    other = clips_of(2)[0]
    lost = clips_of(1)[0]
    rewrite(PREDICTIONS, lambda rows: [{**rows[0], "clip": other}, *rows[1:]])
    what = (
        f"not the test split of fold 1: without 1 clip of it: {lost}; "
        f"with 1 clip beside it: {other}"
    )
    expect(doctor(), 2, ("error", "predictions-clips", PREDICTIONS, what, "safe-cli eval --fold 1"))


@pytest.mark.parametrize(
    ("column", "spoilt", "kind", "what"),
    [
        ("label", lambda label: (label + 1) % 7, "predictions-labels", "another label"),
        ("logits", lambda logits: [float("nan")] * 7, "predictions", "finite"),
    ],
)
def test_predictions_of_other_labels_and_without_numbers(tree, doctor, column, spoilt, kind, what):
    def spoil(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        rows[0][column] = spoilt(rows[0][column])
        return rows

    rewrite(PREDICTIONS, spoil)
    expect(doctor(), 2, ("error", kind, PREDICTIONS, what, "safe-cli eval --fold 1"))


# The machine


def machine(report: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [
        (finding["severity"], finding["kind"], finding["remedy"])
        for finding in report["findings"]
        if finding["part"] == "machine" and finding["kind"] != "versions"
    ]


def test_low_disk_on_a_disk_that_is_small(tmp_path):
    config = small_config(tmp_path)
    with small_disk(tmp_path / "disk", "16m") as disk:
        found = examine_machine(config, folders=[disk / "data", tmp_path], need_gib=0.05)
    (low,) = [finding for finding in found.findings if finding.kind == "disk"]
    assert (low.severity, low.where) == ("error", str(disk / "data"))
    assert "0.02 GiB free, about 0.05 GiB needed" in low.what
    assert "dvc gc" in low.remedy


def test_low_disk_by_what_is_asked_for(tree, doctor):
    report = doctor(need_gib=1e6)
    ((severity, kind, remedy),) = machine(report)
    assert (severity, kind) == ("error", "disk")
    assert "free some space" in remedy
    assert report["exit_code"] == 2
    assert told(report) == []


def test_the_estimate_holds_what_the_stages_really_wrote(project):
    config = small_config(project)
    wrote = sum(path.stat().st_size for path in (project / "data").rglob("*") if path.is_file())
    base = plan_gib(config, clips=70, raw=False, faces=False, shards=False)
    plan = plan_gib(config, clips=70, raw=True, faces=True, shards=True) - base
    assert wrote / 2**30 < plan < 4 * wrote / 2**30
    new = config.model_copy(update={"model": config.model.model_copy(update={"backbone": "new"})})
    assert plan_gib(new, clips=70, raw=False, faces=False, shards=False) >= base


def test_no_detector_weights(tree, doctor, monkeypatch):
    """The package is not where Python looks for packages."""
    from pipeline.face import detect

    detect.detector_id.cache_clear()
    monkeypatch.setattr(detect, "find_spec", lambda name: None)
    report = doctor()
    detect.detector_id.cache_clear()
    ((severity, kind, remedy),) = machine(report)
    assert (severity, kind) == ("error", "detector")
    assert "pip install -c constraints.txt" in remedy
    assert report["exit_code"] == 2
    assert told(report) == []


def test_a_device_and_versions_that_are_not_here(tmp_path):
    config = small_config(tmp_path, "runtime.device=cuda:63")
    constraints = tmp_path / "constraints.txt"
    constraints.write_text(f"# tried\nnumpy==1.0\ntorch=={torch.__version__.partition('+')[0]}\n")
    found = examine_machine(config, folders=[tmp_path], need_gib=0, versions=constraints)
    kinds = {finding.kind: finding for finding in found.findings}
    assert kinds["device"].severity == "error"
    assert "runtime.device = cuda:63" in kinds["device"].what
    assert kinds["versions"].severity == "note"
    assert f"numpy {np.__version__} (tried 1.0)" in kinds["versions"].what
    assert "torch" not in kinds["versions"].what


# What the work would end in


TWO = ("calm", "glad")


@pytest.mark.parametrize(
    ("clips", "changes", "kinds"),
    [
        ([(0, "train")] * 9 + [(1, "train")] * 9 + [(0, "test")], {}, []),
        ([(0, "train")] * 9 + [(1, "test")], {}, ["classes-untrained"]),
        ([(0, "train")] * 9 + [(0, "test")], {}, ["classes-empty"]),
        ([(0, "train"), (1, "train")] * 4 + [(0, "test")], {"batch": 9}, ["batch"]),
        ([(0, "train"), (1, "val")] * 8 + [(0, "test")], {"select": "val"}, ["classes-untrained"]),
        ([(0, "train"), (1, "train")] * 8 + [(0, "val")] * 9, {}, ["fold-absent"]),
        ([(k % 2, f"fold{k // 8 + 1}") for k in range(24)], {"batch": 16}, []),
        (
            [(k % 2, f"fold{k // 8 + 1}") for k in range(24)],
            {"batch": 16, "select": "val", "val_from": "fold"},
            ["batch"],
        ),
        (
            [(k % 2, f"fold{k // 8 + 1}") for k in range(24)],
            {"batch": 16, "select": "val", "val_from": "clips"},
            ["batch"],
        ),
    ],
)
def test_classes_and_splits_that_are_too_small_are_told_before_the_work(
    clips: list[tuple[int, str]], changes: dict[str, Any], kinds: list[str]
) -> None:
    found, data = Examination(), Data(name="own", root="/raw", splits="clips.csv", folds=[1])
    train = Train(**{"batch": 8, "select": "last", **changes})
    examine_splits(found, Path("clips.csv"), clips, TWO, data, train)
    assert [finding.kind for finding in found.findings] == kinds


@pytest.mark.parametrize(("root", "told_"), [("raw", True), ("../raw", True), ("/raw", False)])
def test_a_root_that_other_folders_do_not_see(tmp_path, monkeypatch, root, told_):
    monkeypatch.chdir(tmp_path)
    data = Data(name="dfew", root=root, splits="lists", folds=[1])
    found, _ = examine_dataset(data, MANIFEST, forgotten=Path("none"), prepared=False)
    assert ("root-relative" in [finding.kind for finding in found.findings]) == told_


@pytest.mark.parametrize(("name", "told_"), [("plain", False), ("mühe", True), ("表情", True)])
def test_a_folder_in_which_the_queue_does_not_start(tmp_path, monkeypatch, name, told_):
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    found = examine_machine(small_config(tmp_path), folders=[tmp_path], need_gib=0)
    assert ("folder-name" in [finding.kind for finding in found.findings]) == told_


def test_states_that_trainings_left_are_named_and_cleaned(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    there = {"old": (40, None), "young": (2, 4_194_305), "trains": (40, os.getpid())}
    states = {name: tmp_path / ".safe" / "checkpoints" / name for name in there}
    for name, (days, holder) in there.items():
        states[name].mkdir(parents=True)
        file = states[name] / "0000000001.safetensors"
        file.write_bytes(bytes(3 * 2**20))
        os.utime(file, (time.time() - days * 86_400,) * 2)
        if holder:
            (states[name] / "lock").write_text(str(holder))
    found = examine_states(tmp_path / ".safe" / "checkpoints").findings
    assert [Path(finding.where).name for finding in found] == ["old", "young"]
    for finding, days in zip(found, ("40.0 days", "2.0 days"), strict=True):
        assert "3 MiB" in finding.what
        assert days in finding.what
    run_clean(30)
    assert "1 training state deleted, 1 younger" in capsys.readouterr().out
    left = {path.parent.name for path in (tmp_path / ".safe").rglob("*.safetensors")}
    assert left == {"young", "trains"}
    run_clean(0)
    assert not (states["young"] / "0000000001.safetensors").exists()
    assert (states["trains"] / "0000000001.safetensors").exists()


# As a user meets it


def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    settings = [word for pair in (f"data.root={RAW}", *SMALL) for word in ("-S", pair)]
    params = ("--params", str(ROOT / "params.yaml"))
    return call("doctor", *params, *settings, *arguments, folder=Path())


def test_what_is_printed(tree):
    clip = clips_of(1)[0]
    raw(clip).unlink()
    done = cli("--quick")
    assert done.returncode == 2, done.stderr
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split(":")[0] for line in lines if line and line[0] != " "] == [
        *("machine", "dataset", "faces", "shards", "models", "predictions", "doctor", "quick"),
    ]
    assert "shards: ok" in lines
    assert "dataset: 1 error" in lines
    start = lines.index(next(line for line in lines if line.startswith("  error")))
    assert f"{clip}.mp4" in "".join(lines[start : start + 3])
    assert lines[-2].startswith("doctor: 1 error")


def test_wrong_parameters_are_a_finding_too(tree):
    done = cli("--json", "-S", "train.epocs=3")
    assert done.returncode == 2
    assert not done.stderr
    (found,) = json.loads(done.stdout)["findings"]
    assert (found["kind"], found["part"]) == ("parameters", "parameters")
    assert "unknown key 'train.epocs'" in found["what"]
