"""Do two classes, or eleven of which one has no test clip go through every verb?

Two small data sets of one's own, of drawn people, each in a folder as a checkout is; what a verb
leaves is looked at by its values. And two data sets of other classes beside each other.
The ONNX file of eleven classes is tests/test_export.py's.
"""

import hashlib
import json
import shutil
import subprocess
from collections import Counter
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from dvc.repo import Repo
from support import ROOT, TINY, Page, call, write_video

from cli.layout import plots_page
from pipeline.manifest import read_classes
from pipeline.synthetic.clip import draw_clip
from pipeline.synthetic.plan import plan_clips
from safe.evaluation.calibration import Calibration
from safe.evaluation.predictions import read_predictions
from safe.info import read_info
from safe.params import load_config
from safe.taxonomy import ABSTAIN, BASIC, decode

ELEVEN: Final = (
    *("Anger", "Disgust", "Fear", "Happiness", "Neutral", "Sadness", "Surprise"),
    *("Contempt", "Anxiety", "Helplessness", "Disappointment"),
)
"""The classes of MAFW."""

PARTS: Final = ("train", "train", "val", "test")
"""Splits of the clips of a class."""

STAGES: Final = ("index", "faces", "shard", "train", "calibrate", "eval", "summary")


@dataclass(frozen=True)
class Case:
    """A data set of one's own, and what its classes come out as."""

    words: tuple[str, ...]
    """The labels of the list."""
    wanted: list[str] | None = None
    """What data.classes says."""
    untested: str = ""
    """A class without test clips."""

    @property
    def classes(self) -> list[str]:
        return self.wanted or sorted(self.words, key=str.casefold)


CASES: Final = {
    "eleven": Case(ELEVEN, [*ELEVEN[1:], ELEVEN[0]], untested=ELEVEN[0]),
    "two": Case(("笑顔", "very calm")),
}
FRAMES: Final = 8
SETTINGS: Final = (
    *(f"shard.frames={FRAMES}", "shard.clips=9", "train.epochs=1", "train.batch=4"),
    *("train.select=val", "calibrate.risk=null"),
)
"""Beside TINY: half the frames, a step or more a set, calibration, and a decision for each clip."""
RUN: Final = Path("runs", "own")
SHARDS: Final = Path("data", "own", "shards")


def make(folder: Path, case: Case) -> None:
    """Draw the clips of a case, list them, and write params.yaml."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for setting in (*TINY, *SETTINGS):
        key, value = setting.split("=")
        section, name = key.split(".")
        params[section][name] = yaml.safe_load(value)
    params["data"] = {"name": "own", "root": "mine", "splits": "clips.csv", "source": "video"}
    params["data"] |= {"folds": [1], "classes": case.wanted}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    look = load_config(folder / "params.yaml", ["synthesize.clips=70"]).synthesize
    people, lines = iter(plan_clips(look)), ["clip,path,label,split"]
    for word in case.words:
        for number, part in enumerate(PARTS):
            if (word, part) == (case.untested, "test"):
                continue
            person = next(people)
            faces = draw_clip(person, look).faces(look.size, FRAMES, 0.6)
            write_video(folder / "mine" / word / f"{number}.mp4", faces)
            lines.append(f"{person.key},{word}/{number}.mp4,{word},{part}")
    (folder / "mine" / "clips.csv").write_text("\n".join(lines) + "\n")
    with chdir(folder):  # what `dvc plots` fills in is made of DVC's own, which takes seconds
        plots_page().parent.mkdir()
        plots_page().touch()


def do(folder: Path, *words: str) -> str:
    """Run a verb, which must end well, and return what it says."""
    done = call(*words, folder=folder)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@dataclass(frozen=True)
class Made:
    """A case that went through all stages."""

    case: Case
    folder: Path
    said: dict[str, str]
    """Of each stage."""

    @property
    def shards(self) -> dict[str, Any]:
        return json.loads((self.folder / SHARDS / "index.json").read_text())

    @property
    def figures(self) -> dict[str, Any]:
        return json.loads((self.folder / RUN / "eval/fold-1/metrics.json").read_text())


@pytest.fixture(scope="module", params=list(CASES))
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    case, folder = CASES[request.param], tmp_path_factory.mktemp(request.param)
    make(folder, case)
    return Made(case, folder, {verb: do(folder, verb) for verb in STAGES})


def test_every_table_names_the_classes_in_their_order(made: Made) -> None:
    folder, classes = made.folder, made.case.classes
    assert list(read_classes(folder / "data/own/manifest.parquet")) == classes
    listed = pq.read_table(folder / "data/own/manifest.parquet").to_pylist()
    assert {row["label"] for row in listed} == set(range(len(classes)))
    for row in listed:
        assert classes[row["label"]] == row["path"].split("/")[0]
    assert made.shards["classes"] == classes
    held = Counter[str]()
    for shard in made.shards["shards"]:
        held.update(shard["classes"])
    assert held == Counter(classes[row["label"]] for row in listed)
    for stage in ("train", "calibrate"):
        info = read_info(folder / RUN / stage / "fold-1" / "model.json")
        assert list(info["classes"]) == classes
    said = pq.read_table(folder / RUN / "eval/fold-1/predictions.parquet")
    assert list(decode(said.schema.metadata)) == classes
    assert np.shape(said["logits"].to_pylist()) == (len(said), len(classes))
    tested = len(classes) - bool(made.case.untested)
    assert len(said) == PARTS.count("test") * tested
    labels = dict(
        zip((row["clip"] for row in listed), (row["label"] for row in listed), strict=True)
    )
    assert said["label"].to_pylist() == [labels[clip] for clip in said["clip"].to_pylist()]


def test_recalls_and_uar_are_over_the_classes_with_test_clips(made: Made) -> None:
    case, figures = made.case, made.figures
    split = read_predictions(made.folder / RUN / "eval/fold-1/predictions.parquet")
    right = Counter(split.label[split.label == split.predicted].tolist())
    expected = {
        f"recall.{name}": None if name == case.untested else 100 * right[k] / PARTS.count("test")
        for k, name in enumerate(case.classes)
    }
    assert {key: value for key, value in figures.items() if key.startswith("recall.")} == (
        pytest.approx(expected)
    )
    known = [value for value in expected.values() if value is not None]
    assert figures["uar_classes"] == len(known) == len(case.classes) - bool(case.untested)
    assert figures["uar"] == pytest.approx(np.mean(known))
    assert (figures["n_test"], figures["n_left_out"]) == (len(known) * PARTS.count("test"), 0)
    whole = json.loads((made.folder / "results/metrics.json").read_text())
    for key in ("uar", "uar_classes", "n_test", *expected):
        assert whole[key] == (
            None if figures[key] is None else pytest.approx(figures[key], abs=1e-4)
        )
    over = f"UAR over {len(known)} of {len(case.classes)} classes"
    assert (over in made.said["eval"], over in made.said["summary"]) == (bool(case.untested),) * 2
    assert figures["calibrated_on"] == PARTS.count("val") * len(case.classes)


def test_report_and_card_name_every_class(made: Made) -> None:
    case, folder = made.case, made.folder
    assert "keep it as the clips are kept" in do(folder, "report")
    page = Page((folder / "results/report.html").read_text("utf-8"))
    assert not page.problems
    assert [attrs for attrs in page.all("img") if attrs["src"].startswith("data:image/jpeg")]
    words = " ".join(page.words.split())
    missing = f"Without test clips: {case.untested}."
    assert all(name in words for name in case.classes)
    assert (missing in words) == bool(case.untested)
    do(folder, "card", "--model", str(RUN))
    front, text = (folder / "card.md").read_text("utf-8").removeprefix("---\n").split("\n---\n", 1)
    told = " ".join(text.split())
    assert (
        f"each of {len(case.classes)} expressions a probability: {', '.join(case.classes)}." in told
    )
    values = {
        one["name"]: one["value"]
        for one in yaml.safe_load(front)["model-index"][0]["results"][0]["metrics"]
    }
    uar = next(value for name, value in values.items() if name.startswith("UAR"))
    assert uar == pytest.approx(made.figures["uar"], abs=0.05)
    rows = [line for line in text.splitlines() if line.startswith(f"| {case.classes[-1]} |")]
    assert rows


def test_predict_answers_in_the_classes(made: Made) -> None:
    classes = made.case.classes
    video = f"mine/{made.case.words[0]}/0.mp4"
    do(made.folder, "predict", video, "--model", str(RUN), "--workers", "1", "--video")
    (row,) = map(json.loads, (made.folder / "predictions/0.jsonl").read_text("utf-8").splitlines())
    assert [key for key in row if key.startswith("p_")] == [f"p_{name}" for name in classes]
    chances = [row[f"p_{name}"] for name in classes]
    assert sum(chances) == pytest.approx(1, abs=1e-5)
    info = read_info(made.folder / RUN / "calibrate/fold-1/model.json")
    calibration = Calibration.from_info(info)
    assert calibration.clips == PARTS.count("val") * len(classes)
    unsure = calibration.abstains(np.array([chances]))[0]
    assert row["decision"] == (ABSTAIN if unsure else classes[int(np.argmax(chances))])
    inside = calibration.sets(np.array([chances]))[0]
    assert row["set"] == [name for name, is_in in zip(classes, inside, strict=True) if is_in]
    assert (made.folder / "predictions/0.png").stat().st_size > 5000
    summary = json.loads((made.folder / "predictions/summary.json").read_text())
    assert summary["model"]["classes"] == classes


def test_inspect_tells_a_clip_the_shards_and_the_run(made: Made) -> None:
    folder, classes = made.folder, made.case.classes
    said = pq.read_table(folder / RUN / "eval/fold-1/predictions.parquet").to_pylist()[-1]
    clip = json.loads(do(folder, "inspect", said["clip"], "--json"))
    assert clip["clip"]["label"] == classes[said["label"]]
    answer = clip["said by runs/own/eval/fold-1"]
    assert [key for key in answer if key.startswith("p_")] == [f"p_{name}" for name in classes]
    assert (folder / clip["sheet"]).stat().st_size > 1000
    shards = json.loads(do(folder, "inspect", str(SHARDS), "--json", "--clips", "2"))
    for bucket in shards["buckets"]:
        named = {f"n_{name}": PARTS.count(bucket["bucket"]) for name in classes}
        if bucket["bucket"] == "test" and made.case.untested:
            named[f"n_{made.case.untested}"] = 0
        assert bucket == {"bucket": bucket["bucket"], "clips": sum(named.values()), **named}
    tar = made.shards["shards"][0]
    one = json.loads(do(folder, "inspect", str(SHARDS / tar["file"]), "--json", "--no-sheet"))
    assert one["shards"]["clips"] == tar["clips"]
    run = json.loads(do(folder, "inspect", str(RUN), "--json", "--clips", "2"))
    assert run["model"]["classes"] == classes
    assert len(run["calibration"]["cutoffs"]) in (1, len(classes))
    for name in classes:
        figure = made.figures[f"recall.{name}"]
        assert run["metrics"][f"recall.{name}"] == figure


def examine(folder: Path, *words: str) -> dict[str, Any]:
    """Run doctor, which may warn of this machine alone."""
    done = call("doctor", "--json", "--need-gib", "0", *words, folder=folder)
    found: dict[str, Any] = json.loads(done.stdout)
    warned = {one["part"] for one in found["findings"] if one["severity"] != "note"}
    assert warned <= {"machine"}, found["findings"]
    assert (done.returncode == 0) == (not warned)
    return found


def test_doctor_finds_nothing(made: Made) -> None:
    found = examine(made.folder)
    told = {one["kind"] for one in found["findings"] if one["part"] != "machine"}
    assert told <= {"root-relative"}, found["findings"]  # a note that --temp needs another
    facts = found["facts"]
    clips = sum(shard["clips"] for shard in made.shards["shards"])
    assert (facts["dataset"]["clips"], facts["shards"]["clips"]) == (clips, clips)


# A second data set beside the first


def digests(folder: Path, name: str) -> dict[str, str]:
    """Return the sha256 of every file that was made of a data set."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for room in ("data", "runs")
        for path in sorted((folder / room / name).rglob("*"))
        if path.is_file()
    }


DRAWN: Final = tuple(
    word
    for setting in (
        "data={name:synthetic,root:data/raw/synthetic,splits:EmoLabel_DataSplit,source:strips}",
        *("train.select=last", "train.batch=8"),
    )
    for word in ("-S", setting)
)
"""What makes the params.yaml of a case that of the drawn data set."""


def keys_of(folder: Path, name: str) -> set[str]:
    """Return the keys of the clips of a data set."""
    return set(pq.read_table(folder / "data" / name / "manifest.parquet")["clip"].to_pylist())


@pytest.mark.parametrize("made", ["two"], indirect=True)
def test_a_second_data_set_of_other_classes_disturbs_nothing_of_the_first(
    made: Made, tmp_path: Path
) -> None:
    folder = shutil.copytree(made.folder, tmp_path / "both")
    first = digests(folder, "own")
    assert {path.split("/")[-1] for path in first} >= {
        *("manifest.parquet", "faces.parquet", "index.json", "clips.parquet", "train-000000.tar"),
        *("model.json", "model.safetensors", "predictions.parquet", "metrics.json"),
    }
    whole = (folder / "results/metrics.json").read_bytes()
    for verb in ("synthesize", *STAGES):
        do(folder, verb, *DRAWN)
    assert digests(folder, "own") == first
    second = digests(folder, "synthetic")
    theirs = json.loads((folder / "results/metrics.json").read_text())
    assert (theirs["dataset"], theirs["n_test"]) == ("synthetic", 7)
    assert [key for key in theirs if key.startswith("recall.")] == [f"recall.{n}" for n in BASIC]
    for verb in ("index", "calibrate", "eval", "summary"):
        do(folder, verb)
    assert (folder / "results/metrics.json").read_bytes() == whole
    assert digests(folder, "own") == first
    assert digests(folder, "synthetic") == second

    # Clips of one key are two clips.
    both = keys_of(folder, "own") & keys_of(folder, "synthetic")
    tested = pq.read_table(folder / RUN / "eval/fold-1/predictions.parquet")["clip"].to_pylist()
    key = min(both & set(tested))
    for words, name, classes in ((), "own", made.case.classes), (DRAWN, "synthetic", BASIC):
        clip = json.loads(do(folder, "inspect", key, "--json", "--no-sheet", *words))
        assert clip["clip"]["label"] in classes
        said = [heading for heading in clip if heading.startswith("said by ")]
        assert all(heading.startswith(f"said by runs/{name}/") for heading in said)
        assert said or name == "synthetic"
    do(folder, "forget", key)
    assert key not in keys_of(folder, "own")
    do(folder, "index", *DRAWN)
    assert digests(folder, "synthetic") == second
    examine(folder, *DRAWN)


def test_dvc_resolves_the_pipeline_for_both_names(tmp_path: Path) -> None:
    for name in ("dvc.yaml", ".dvc/config"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    paths = {}
    for name, changes in {
        "synthetic": {},
        "own": {"name": "own", "root": "mine", "splits": "clips.csv", "folds": [1, 2]},
    }.items():
        data = params["data"] | changes
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(params | {"data": data}))
        with chdir(tmp_path):
            stages = Repo(str(tmp_path)).index.stages
        paths[name] = {out.def_path for stage in stages for out in stage.outs}
        listed = {dep.def_path for stage in stages for dep in stage.deps}
        assert f"{data['root']}/{data['splits']}" in listed
        for stage in ("train", "calibrate", "eval"):
            for fold in data["folds"]:
                assert f"runs/{name}/{stage}/fold-{fold}" in paths[name]
    common = paths["own"] & paths["synthetic"]
    assert all(path.startswith("results/") or path == "data/raw/synthetic" for path in common)
    other = {"own": "synthetic", "synthetic": "own"}
    for name, outs in paths.items():
        assert not [out for out in outs - common if f"/{other[name]}" in out]
