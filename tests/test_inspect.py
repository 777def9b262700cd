"""Does inspect tell what the tables hold, and show the pixels that the model gets?"""

import json
import shutil
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support import ROOT, SMALL, grey_ramp, small_config, write_at, write_video

from cli.inspect import inspect_clip, run_inspect
from cli.layout import Layout
from pipeline import view
from pipeline.face.table import ClipFaces
from pipeline.face.track import choose_track
from safe.errors import ConfigError, DataError
from safe.evaluation.calibration import Calibration
from safe.evaluation.metrics import softmax
from safe.models.registry import build_model
from safe.report.canvas import save
from safe.report.contact import KINDS, Frames, Row, Said, contact_figure
from safe.report.inspect import _windows, inspect_run, inspect_shard
from safe.sample import DEFAULT_FRAMES, decode_strip
from safe.saved import save_model
from safe.shards.folder import open_shards
from safe.taxonomy import BASIC, encode

T = DEFAULT_FRAMES
LAYOUT = Layout("synthetic")
CALIBRATION = Calibration("temperature", scale=(0.5,) * 7, threshold=0.6, clips=30)


@pytest.fixture
def here(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with the data of `project`, and a run of random weights and made-up logits.

    The working folder is that one, as a user's is.
    """
    shutil.copytree(project / "data", tmp_path / "data", symlinks=True)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    folder, config = open_shards(LAYOUT.shards), small_config(tmp_path)
    architecture = config.model.model_dump(exclude={"weights"})
    info = {
        "classes": folder.classes,
        "architecture": architecture,
        "crop": config.augment.crop,
        "preprocessing": folder.index["preprocessing"],
        "dataset": "synthetic",
        "fold": 1,
        "seed": 0,
        "selection": {"rule": "last", "metric": None, "epoch": 2},
        "calibration": CALIBRATION.record(),
        "history": [{"loss": 2.0 - i, "train_uar": 14.0 + i} for i in range(2)],
    }
    model = build_model(len(folder.classes), **architecture, weights=None)
    save_model(LAYOUT.calibrates / "fold-1", model.state_dict(), info)
    rows = folder.split(1)[1]
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(len(rows), 7)) + 3 * np.eye(7)[folder.label[rows]]
    attention = softmax(rng.normal(size=(len(rows), 7)))
    LAYOUT.evals.joinpath("fold-1").mkdir(parents=True)
    columns: dict[str, Any] = {
        "clip": folder.clip[rows].tolist(),
        "label": folder.label[rows],
        "logits": logits.tolist(),
        "embedding": attention.tolist(),
        "attention": attention.tolist(),
    }
    said = pa.table(columns).replace_schema_metadata(encode(folder.classes))
    pq.write_table(said, LAYOUT.evals / "fold-1" / "predictions.parquet")
    return tmp_path


def panels(figure: Any) -> list[Any]:
    """Return the axes that hold a picture, in the order of drawing."""
    return [axes for axes in figure.axes if axes.images]


def test_a_clip_is_told_as_the_tables_hold_it_and_shown_as_stored(here: Path) -> None:
    folder = open_shards(LAYOUT.shards)
    row = int(folder.split(1)[1][0])
    key = str(folder.clip[row])
    facts, figure = inspect_clip(key, small_config(here), LAYOUT, draw=True)
    table = pq.read_table(LAYOUT.faces)
    kept = next(entry for entry in table.to_pylist() if entry["clip"] == key)
    frames: Any = facts["frames"]
    assert [entry["frame"] for entry in frames] == kept["frame_index"]
    np.testing.assert_allclose(
        [[entry[side] for side in ("x0", "y0", "x1", "y1")] for entry in frames],
        kept["box"],
        atol=0.006,
    )
    assert [entry["box"] == "detected" for entry in frames] == [s > 0 for s in kept["score"]]
    clip: Any = facts["clip"]
    assert (clip["label"], clip["bucket"]) == (BASIC[folder.label[row]], "fold1")
    assert clip["decoding"] == "16 of 16 frames, no damage seen"
    said: Any = facts["said by runs/synthetic/eval/fold-1"]
    logits = pq.read_table(LAYOUT.evals / "fold-1" / "predictions.parquet")["logits"][0].as_py()
    chances = np.exp(np.array(logits) / 2) / np.exp(np.array(logits) / 2).sum()  # temperature 2
    np.testing.assert_allclose([said[f"p_{name}"] for name in BASIC], chances, atol=6e-5)
    assert said["decision"] == (BASIC[chances.argmax()] if chances.max() >= 0.6 else "abstain")
    pictures = panels(figure)
    assert len(pictures) == T + 1
    tar = LAYOUT.shards / folder.files[folder.shard[row]]
    start = int(folder.offset[row])
    strip = decode_strip(tar.read_bytes()[start : start + int(folder.size[row])], 48, T)
    shown = np.asarray(pictures[-1].images[0].get_array())
    np.testing.assert_array_equal(shown, np.concatenate(list(strip), axis=1))


def test_a_file_of_no_dataset_is_cut_out_as_shard_would(here: Path) -> None:
    """A copy under another name gives the strip that the shard stage made of the original."""
    folder = open_shards(LAYOUT.shards)
    key = str(folder.clip[0])
    found = next(e for e in pq.read_table(LAYOUT.manifest).to_pylist() if e["clip"] == key)
    config = small_config(here)
    shutil.copy(Path(config.data.root) / found["path"], here / "mine.mp4")
    facts, figure = inspect_clip("mine.mp4", config, LAYOUT, draw=True)
    clip: Any = facts["clip"]
    assert (clip["label"], clip["bucket"], clip["status"]) == (None, None, "ok")
    assert not [heading for heading in facts if heading.startswith("said")]
    _, stored = inspect_clip(key, config, LAYOUT, draw=True)
    mine, theirs = (np.asarray(panels(one)[-1].images[0].get_array()) for one in (figure, stored))
    np.testing.assert_array_equal(mine, theirs)
    by_path, _ = inspect_clip(
        str(Path(config.data.root) / found["path"]), config, LAYOUT, draw=False
    )
    assert by_path["clip"]["clip"] == key  # type: ignore[call-overload]


def test_the_seconds_of_a_clip_of_uneven_rate_are_those_of_its_frames(here: Path) -> None:
    moments = [40 * i for i in range(30)] + [1_160 + 200 * i for i in range(1, 11)]
    write_at(here / "uneven.mkv", grey_ramp(40), moments)
    facts, _ = inspect_clip("uneven.mkv", small_config(here), LAYOUT, draw=False)
    frames: Any = facts["frames"]
    assert [row["second"] for row in frames] == [moments[row["frame"]] / 1000 for row in frames]


def test_a_clip_that_cannot_be_read_says_why_and_draws_what_there_is(here: Path) -> None:
    config, key = small_config(here), str(open_shards(LAYOUT.shards).clip[3])
    found = next(e for e in pq.read_table(LAYOUT.manifest).to_pylist() if e["clip"] == key)
    elsewhere = small_config(here, f"data.root={here}")
    facts, figure = inspect_clip(key, elsewhere, LAYOUT, draw=True)
    assert facts["clip"]["decoding"] == "nothing: file missing"  # type: ignore[call-overload]
    assert len(panels(figure)) == 1  # the faces from the shard
    (here / "text.mp4").write_text("no video" * 100)
    facts, figure = inspect_clip("text.mp4", config, LAYOUT, draw=True)
    assert "not a video" in facts["clip"]["decoding"]  # type: ignore[call-overload]
    assert figure is None
    near = f"{key}x"
    with pytest.raises(DataError, match=rf"no clip of .*; the nearest keys: .*{key}"):
        inspect_clip(near, config, LAYOUT, draw=True)
    assert found["clip"] == key


def test_a_video_without_a_face_shows_its_centre(here: Path) -> None:
    write_video(here / "grey.mp4", np.full((20, 48, 64, 3), 99, np.uint8))
    facts, figure = inspect_clip("grey.mp4", small_config(here), LAYOUT, draw=True)
    frames: Any = facts["frames"]
    assert {entry["box"] for entry in frames} == {"no face"}
    assert {entry["score"] for entry in frames} == {None}
    assert len(panels(figure)) == T + 1


def test_kinds_of_boxes_are_those_of_the_track() -> None:
    """Held and interpolated as choose_track says, over random gaps."""
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(60):
        there = rng.random(T) < rng.choice([0.2, 0.5, 0.9])
        box = np.array([[10, 10, 50, 50, 0.9]], np.float32)
        track = choose_track([box if one else box[:0] for one in there], max_gap=4, smooth=0)
        if track is None:
            continue
        told = f"face in {there.sum()} of {T} frames"
        row = ClipFaces("partial", told, score=tuple(track.scores.tolist()))
        kinds = view.box_kinds(row, source="video", max_gap=4)
        first, last = np.flatnonzero(there)[[0, -1]]
        for t, kind in enumerate(kinds):
            assert track.held[t] or first <= t <= last  # before and after, however near
            expected = "held" if track.held[t] else "interpolated"
            assert kind == ("detected" if there[t] else expected)
        seen |= set(kinds)
    assert seen == {"detected", "held", "interpolated"}
    row = ClipFaces("ok", "interlaced", score=(0.9, 0, 0, 0) * 3 + (0.9, 0, 0, 0.9))
    assert view.box_kinds(row, source="video", max_gap=1)[1:4] == ["between looks"] * 3
    assert view.box_kinds(row, source="frames", max_gap=1) == ["whole frame"] * T
    assert set(get_args(view.Kind)) == KINDS.keys()


def test_a_shard_is_counted_and_an_altered_tar_is_told(here: Path) -> None:
    folder = open_shards(LAYOUT.shards)
    facts, figure = inspect_shard(LAYOUT.shards, clips=5, bucket="fold2", label="sad", draw=True)
    buckets: Any = facts["buckets"]
    for entry in buckets:
        mine = folder.label[folder.bucket == entry["bucket"]]
        assert [entry[f"n_{name}"] for name in BASIC] == np.bincount(mine, minlength=7).tolist()
    sad = (folder.bucket == "fold2") & (folder.label == BASIC.index("sad"))
    assert 0 < sad.sum() == len(panels(figure)) <= 5
    titles = [axes.get_title(loc="left").split(" ")[0] for axes in panels(figure)]
    assert titles == folder.clip[sad].tolist()
    tar = LAYOUT.shards / folder.files[0]
    alone, _ = inspect_shard(tar, clips=1, bucket=None, label=None, draw=False)
    assert alone["shards"]["clips"] == int((folder.shard == 0).sum())  # type: ignore[call-overload]
    data = bytearray(tar.read_bytes())
    data[600] ^= 1
    tar.unlink()
    tar.write_bytes(data)
    facts, figure = inspect_shard(LAYOUT.shards, clips=5, bucket=None, label=None, draw=True)
    states = {entry["file"]: entry["checksum"] for entry in facts["tars"]}  # type: ignore[call-overload]
    assert states.pop(tar.name) == "altered"
    assert set(states.values()) == {"as in index.json"}
    assert figure is None
    with pytest.raises(DataError, match="not one of the"):
        inspect_shard(LAYOUT.shards / "none.tar", clips=1, bucket=None, label=None, draw=False)


def test_a_run_is_told_and_its_surest_wrong_and_right_clips_drawn(here: Path) -> None:
    facts, figure = inspect_run(
        LAYOUT.calibrates / "fold-1", LAYOUT.shards, clips=8, label=None, draw=True
    )
    model: Any = facts["model"]
    built = build_model(7, **small_config(here).model.model_dump())
    assert model["parameters"] == sum(part.numel() for part in built.parameters())
    assert model["shards"] == "data/synthetic/shards: of the same preprocessing"
    assert facts["calibration"]["method"] == "temperature"  # type: ignore[call-overload]
    table = pq.read_table(LAYOUT.evals / "fold-1" / "predictions.parquet")
    logits, label = np.array(table["logits"].to_pylist()), table["label"].to_numpy()
    wrong = logits.argmax(axis=1) != label
    assert 0 < wrong.sum() < len(wrong)
    titles = [axes.get_title(loc="left") for axes in panels(figure)]
    keys = table["clip"].to_pylist()
    shown = [keys.index(title.split(" ")[0]) for title in titles]
    for i, title in zip(shown, titles, strict=True):
        assert f"labelled {BASIC[label[i]]} · {'wrong' if wrong[i] else 'right'}" in title
    assert wrong[shown].sum() == min(4, wrong.sum())
    sure = softmax(logits / 2).max(axis=1)
    right = [i for i in shown if not wrong[i]]
    for i in right:  # the surest of its class
        assert sure[i] == sure[(label == label[i]) & ~wrong].max()


def test_the_verb_writes_text_json_and_a_picture(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(what: str, **more: Any) -> str:
        keywords = {"out": None, "draw": True, "as_json": False, "clips": 2, "bucket": None,
                    "label": None} | more  # fmt: skip
        root = f"data.root={here / 'data' / 'raw' / 'synthetic'}"
        run_inspect(Path("params.yaml"), [root, *SMALL], what, **keywords)
        return capsys.readouterr().out

    assert "sheet: inspected/synthetic-shards.png" in run("data/synthetic/shards")
    with Image.open("inspected/synthetic-shards.png") as picture:
        assert picture.width == 1732
    told = json.loads(run("runs/synthetic", as_json=True, out=Path("run.png")))
    assert told["sheet"] == "run.png"
    assert told["model"]["fold"] == 1
    assert Path("run.png").exists()
    key = str(open_shards(LAYOUT.shards).clip[0])
    text = run(key, draw=False)
    assert text.startswith(f"clip\n  clip          {key}\n")
    assert "sheet" not in text
    assert not Path(f"inspected/{key}.png").exists()
    with pytest.raises(ConfigError, match="the suffix must be"):
        run(key, out=Path("a.jpg"))
    for what in (key, "data/synthetic/shards", "runs/synthetic"):
        with pytest.raises(ConfigError, match="--label joy: must be one of happy, sad, neutral,"):
            run(what, label="joy")
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert "/inspected/" in ignored  # faces are biometric data


def test_a_run_beside_predictions_of_other_classes_is_refused(here: Path) -> None:
    path = LAYOUT.evals / "fold-1" / "predictions.parquet"
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata(encode(BASIC[::-1])), path)
    with pytest.raises(DataError, match="of other classes than the model"):
        inspect_run(LAYOUT.calibrates / "fold-1", LAYOUT.shards, clips=8, label=None, draw=True)


def test_a_sheet_needs_something_to_draw() -> None:
    with pytest.raises(DataError, match="no clip to draw"):
        contact_figure("t", "", [])
    frames = Frames(np.zeros((T, 8, 8, 3), np.uint8), np.zeros((T, 4)), ["held"] * T, [""] * T)
    said = Said(np.full(7, 1 / 7), BASIC, np.full(7, 1 / 7), 4, 2)
    figure = contact_figure("t", "", [Row("r", None, 0, said)], frames=frames)
    assert len(panels(figure)) == T  # the row without faces is grey


@pytest.mark.parametrize("frames", [8, 64])
def test_a_sheet_of_clips_of_so_many_frames(frames: int, tmp_path: Path) -> None:
    source = Frames(
        np.zeros((frames, 10, 10, 3), np.uint8), np.zeros((frames, 4)), ["held"] * frames,
        [""] * frames,
    )  # fmt: skip
    count = (frames - 4) // 2 + 1
    said = Said(np.full(7, 1 / 7), BASIC, np.full(count, 1 / count), 4, 2, frames)
    faces = np.zeros((frames, 16, 16, 3), np.uint8)
    drawn = [Row("faces", faces, 0, said), Row("none", None, 0, said)]
    figure = contact_figure("t", "", drawn, frames=source)
    save(figure, tmp_path / "sheet.png")
    pictures = panels(figure)
    assert len(pictures) == frames + 1
    box = pictures[-1].get_position()
    assert box.y1 < min(panel.get_position().y0 for panel in pictures[:-1])  # below the source
    assert np.asarray(pictures[-1].images[0].get_array()).shape == (16, 16 * frames, 3)
    strips = [axes for axes in figure.axes if axes.get_xlim() == (0, frames)]
    assert len(strips) == 4  # two of faces, two of windows
    assert min(axes.get_position().y0 for axes in figure.axes) > 0


def test_the_windows_of_a_model_of_eight_frames() -> None:
    info = {"architecture": {"name": "safe", "window": 4, "stride": 2}, "frames": 8}
    assert _windows(info, 3) == (4, 2, 8)
    assert _windows(info, 7) is None
    assert _windows(info | {"frames": 16}, 7) == (4, 2, 16)
    assert _windows({}, 7) is None


def test_a_file_is_cut_out_into_so_many_frames(here: Path) -> None:
    config = small_config(here, "shard.frames=8")
    found = pq.read_table(LAYOUT.manifest).to_pylist()[0]
    shutil.copy(Path(config.data.root) / found["path"], here / "mine.mp4")
    facts, figure = inspect_clip("mine.mp4", config, LAYOUT, draw=True)
    assert facts["clip"]["decoding"] == "8 of 8 frames, no damage seen"  # type: ignore[call-overload]
    assert len(facts["frames"]) == 8
    pictures = panels(figure)
    assert len(pictures) == 8 + 1
    assert np.asarray(pictures[-1].images[0].get_array()).shape == (48, 8 * 48, 3)
