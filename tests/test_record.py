"""What a stage read is compared at its end, and by whoever reads what it made."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from dvc_project import ENV, dvc, make_repository, set_params
from support import ROOT, TINY, run_cli

from pipeline.content import RawClips, digest
from safe.code import ROOT as CODE
from safe.evaluation.calibrate import LEAST, MOST, doubts
from safe.files import hold_lock
from safe.params import load_config
from safe.record import ChangedError, Digests, differences, recorded, stamp, values
from safe.training.train import train

STRIPS = (*TINY, "data.source=strips", "train.epochs=1")


def params_of(folder: Path, *overrides: str) -> Path:
    shutil.copy(ROOT / "params.yaml", folder / "params.yaml")
    if overrides:
        set_params(folder, *overrides)
    return folder / "params.yaml"


def words(*overrides: str) -> list[str]:
    return [word for pair in (*STRIPS, *overrides) for word in ("-S", pair)]


# While a stage runs


def run(folder: Path, stage: str, do, *, reads=(), code=None) -> Path:
    """Run a stage that writes a file and, in the middle, does something."""
    path, made = params_of(folder), folder / "made"
    with recorded(
        stage, load_config(path), lambda: load_config(path), reads=list(reads), makes=[made]
    ):
        made.write_text("of the old parameters")
        do()
    return made


@pytest.mark.parametrize(
    ("stage", "edit", "told"),
    [
        ("train", "train.lr=0.004", "train.lr was 0.001, is 0.004"),
        ("train", "acl.tau=0.2", "acl.tau"),
        ("train", "seed.x=1", "params"),
        ("faces", "shard.frames=8", "shard.frames was 16, is 8"),
        ("shard", "faces.smooth=2.0", "faces.smooth"),
        ("index", "data.classes=[happy, sad]", "data.classes was null"),
        ("calibrate", "calibrate.level=0.8", "calibrate.level"),
        ("eval", "eval.severity=1", "eval.severity"),
        ("summary", "data.folds=[1, 2]", "data.folds"),
    ],
)
def test_params_that_are_edited_meanwhile_end_the_stage(tmp_path, stage, edit, told):
    def change():
        if edit.startswith("seed"):
            (tmp_path / "params.yaml").write_text("seed: [half, an, edit")
        else:
            set_params(tmp_path, edit)

    with pytest.raises(ChangedError, match=f"^{stage}: changed while it ran: .*{told[:20]}"):
        run(tmp_path, stage, change)
    assert not (tmp_path / "made").exists()


def test_what_the_stage_does_not_read_may_be_edited(tmp_path):
    for stage, edit in (("faces", "train.lr=0.1"), ("train", "runtime.workers=1")):
        assert run(tmp_path, stage, lambda edit=edit: set_params(tmp_path, edit)).exists()
    assert run(tmp_path, "train", (tmp_path / "params.yaml").touch).exists()


@pytest.mark.parametrize("change", ["other", "longer", "gone", "new", "in a folder"])
def test_inputs_that_change_meanwhile_end_the_stage(tmp_path, change):
    folder = tmp_path / "in"
    folder.mkdir()
    file = folder / "file"
    if change != "new":
        file.write_text("old")

    def edit():
        if change == "gone":
            return file.unlink()
        fresh = tmp_path / "fresh"
        fresh.write_text("new" if change != "longer" else "longer")
        return fresh.replace(file)

    reads = [folder] if change == "in a folder" else [file]
    with pytest.raises(ChangedError, match=r"in.* is not as it was"):
        run(tmp_path, "train", edit, reads=reads)


def test_a_module_that_is_edited_meanwhile_ends_the_stages_that_run_it(tmp_path):
    """In a copy of the project, by a process of its own."""
    for room in ("safe", "pipeline", "cli"):
        shutil.copytree(CODE / room, tmp_path / room, ignore=shutil.ignore_patterns("*.pyc"))
    script = (
        "import sys; from pathlib import Path; from safe.config import Config\n"
        "from safe.record import recorded\n"
        "stage, name = sys.argv[1:]\n"
        "with recorded(stage, Config(), Config, reads=[], makes=[]):\n"
        "    path = Path(name); path.write_text(path.read_text() + '\\n# edited\\n')\n"
    )
    for stage, module, ends in (
        ("train", "safe/training/losses.py", True),
        ("train", "pipeline/video/decode.py", False),
        ("faces", "pipeline/video/decode.py", True),
        ("faces", "safe/errors.py", False),
    ):
        done = subprocess.run(
            [sys.executable, "-c", script, stage, module],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        assert (f"{module} was edited" in done.stderr) == ends, (stage, module, done.stderr)


# Files


def test_a_digest_is_made_once_for_as_long_as_the_file_is_the_same(tmp_path):
    file, memory = tmp_path / "file", tmp_path / "memory.json"
    file.write_text("abc")
    first = Digests(memory).of(file)
    about = file.stat()
    file.write_text("abd")
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))  # as if it were the same
    assert Digests(memory).of(file) == first
    file.touch()
    assert Digests(memory).of(file) not in (first, None)
    memory.write_text("[damaged")
    assert Digests(memory).of(file) == Digests().of(file)
    assert Digests().of(tmp_path / "none") is stamp(tmp_path / "none") is None
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a").write_text("1")
    one = Digests().of(folder)
    (folder / "a").rename(folder / "b")
    assert Digests().of(folder) != one


def test_differences_are_told_of_keys_that_both_have():
    assert differences({"a": 1, "b": [1]}, {"a": 2, "b": [1], "c": 3}) == ["a was 1, is 2"]
    config = load_config(ROOT / "params.yaml")
    assert values(config, "summary").keys() == {"data.folds", "data.name", "eval.bins"}


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_raw_clip_that_is_replaced_is_found(tmp_path, kind):
    clip = tmp_path / "clip"
    if kind == "folder":
        clip.mkdir()
    file = clip / "1.jpg" if kind == "folder" else clip
    file.write_bytes(b"old")
    paths, sums = ["clip", "none"], [digest(clip), ""]
    clips = RawClips(tmp_path, paths)
    clips.check()
    clips.compare(None, sums)
    fresh = tmp_path / "fresh"
    fresh.write_bytes(b"old")
    fresh.replace(file)  # a copy: other stamps, the same bytes
    with pytest.raises(ChangedError, match="changed while"):
        clips.check()
    RawClips(tmp_path, paths).compare(clips.stamps, sums)
    fresh.write_bytes(b"new")
    fresh.replace(file)
    for before in (None, clips.stamps):
        with pytest.raises(ChangedError, match="not the one that `faces` looked at"):
            RawClips(tmp_path, paths).compare(before, sums)
    (tmp_path / "none").write_bytes(b"there now")
    with pytest.raises(ChangedError):
        RawClips(tmp_path, ["none"]).compare(np.zeros(1, np.int64), [""])


# From verb to verb, without DVC


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Tiny strips through all stages, in a folder of its own."""
    folder = tmp_path_factory.mktemp("verbs")
    params_of(folder)
    for verb in ("synthesize", "shard", "train", "calibrate", "eval", "summary"):
        run_cli(verb, *words(*VAL), folder=folder)
    return folder


VAL = ("train.select=val", "train.val_from=fold")


@pytest.fixture
def folder(made, tmp_path):
    shutil.copytree(made, tmp_path / "p")
    return tmp_path / "p"


def refused(folder: Path, *arguments: str, code: int = 3) -> str:
    return run_cli(*arguments, folder=folder, expect=code).stderr


def test_a_model_trained_again_is_calibrated_and_evaluated_again(folder):
    run_cli("train", *words(*VAL, "seed=1"), folder=folder)
    for verb in ("eval", "summary"):
        said = refused(folder, verb, *words(*VAL))
        assert "calibrated another model" in said
        assert "safe-cli calibrate --fold 1" in said
    report = run_cli("doctor", "--quick", "--json", *words(*VAL), folder=folder, expect=2)
    found = [one for one in json.loads(report.stdout)["findings"] if one["kind"] == "record"]
    assert [one["what"].partition(" than")[0] for one in found] == ["calibrated another model"]
    run_cli("calibrate", *words(*VAL), folder=folder)
    assert "answers of another model" in refused(folder, "summary", *words(*VAL))
    for verb in ("eval", "summary"):
        run_cli(verb, *words(*VAL), folder=folder)


@pytest.mark.parametrize(
    "change", ["shard.size=48", "shard.quality=80", "shard.margin=0.3", "shard.chroma='444'"]
)
def test_parameters_that_did_not_make_the_shards_are_an_error(folder, change):
    for verb in ("train", "eval"):
        said = refused(folder, verb, *words(*VAL, change))
        assert change.split("=")[0] in said
        assert len(said.strip().splitlines()) == 1


def test_an_edited_list_is_an_error_and_shard_reads_it_again(folder):
    """Another list under the same name, by hand or by another data.root."""
    (lists,) = (folder / "data/raw/synthetic/EmoLabel_DataSplit").glob("train*/set_2.csv")
    rows = lists.read_text().splitlines()
    key, label = rows[1].split(",")
    rows[1] = f"{key},{int(label) % 7 + 1}"
    lists.write_text("\n".join(rows) + "\n")
    for verb in ("faces", "train", "summary"):
        assert "not the list that it was made from" in refused(folder, verb, *words(*VAL))
    with pytest.MonkeyPatch.context() as patch:  # DVC runs index by itself
        patch.setenv("DVC_STAGE", "shard")
        refused(folder, "shard", *words(*VAL))


def test_other_classes_and_forgotten_clips_are_told_from_the_manifest(folder):
    classes = "data.classes=[happy,sad,neutral,angry,surprise,disgust]"
    assert "data.classes was null" in refused(folder, "train", *words(*VAL, classes))
    (folder / "forgotten.csv").write_text("dataset,clip\nsynthetic,00003\n")
    assert "00003" in refused(folder, "train", *words(*VAL))


def test_predictions_of_another_evaluation_are_not_summed_up(folder):
    path = folder / "runs/synthetic/eval/fold-1/metrics.json"
    metrics = json.loads(path.read_text())
    path.write_text(json.dumps(metrics | {"war": metrics["war"] + 1}))
    assert "metrics.json is of other predictions" in refused(folder, "summary", *words(*VAL))


@pytest.mark.usefixtures("unguarded")
def test_a_raw_clip_replaced_after_faces_is_not_cut_out(folder):
    run_cli("faces", *words(*VAL), folder=folder)
    first, second = sorted((folder / "data/raw/synthetic/Clip").rglob("*.jpg"))[:2]
    keep = first.read_bytes()
    first.write_bytes(second.read_bytes())
    for strips in ("with strips", "without"):
        said = refused(folder, "shard", *words(*VAL))
        assert f"{first.name}: not the one that `faces` looked at" in said, strips
        shutil.rmtree(folder / ".safe" / "strips", ignore_errors=True)
    first.write_bytes(keep)
    run_cli("shard", *words(*VAL), folder=folder)


def test_a_finished_training_is_not_saved_but_its_checkpoint_stays(made, tmp_path):
    settings = {
        "shards": made / "data/synthetic/shards",
        "fold": 1,
        "out": tmp_path / "model",
        "checkpoints": tmp_path / "checkpoints",
        "commit": "none",
    }
    config = load_config(made / "params.yaml", list(STRIPS))

    def refuse() -> None:
        raise ChangedError("train: changed while it ran: train.lr")

    with pytest.raises(ChangedError):
        train(config, **settings, before_save=refuse)
    assert not (tmp_path / "model" / "model.json").exists()
    epochs = []
    train(config, **settings, on_epoch=lambda epoch, _: epochs.append(epoch))
    assert not epochs  # no step was done again
    info = json.loads((tmp_path / "model" / "model.json").read_text())
    assert info["threads"] == 1
    assert info["read"]["weights"] is None


# DVC


def test_a_strangers_folds_reach_no_shell(tmp_path):
    """With `dvc repro` itself, and the shell that it takes."""
    clone = make_repository(tmp_path / "p")
    (clone / "data/synthetic/shards").mkdir(parents=True)
    (clone / "data/synthetic/shards/index.json").touch()
    text = (clone / "params.yaml").read_text()
    for fold in ("$(touch X)1", "`touch X`'; touch X #1"):
        params = yaml.safe_load(text)
        params["data"]["folds"] = [fold]
        (clone / "params.yaml").write_text(yaml.safe_dump(params))
        done = subprocess.run(
            ["dvc", "repro", "-s", "--glob", "train@*"],
            cwd=clone,
            env=ENV,
            capture_output=True,
            text=True,
        )
        assert done.returncode != 0
        assert "safe-cli: params: data.folds" in done.stderr, done.stderr  # the command did run
        assert not list(clone.rglob("X"))


def test_dvc_sees_that_the_file_of_model_weights_is_another(tmp_path):
    clone = make_repository(tmp_path / "p")
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"one")
    set_params(clone, f"model.weights={weights}")
    assert str(weights) in dvc("status train@1", clone)
    set_params(clone, "model.weights=null")
    assert "weights" not in dvc("status train@1", clone)


# What is said


@pytest.mark.parametrize(
    ("clips", "temperature", "told"),
    [(2, 1 / MOST, 2), (9, MOST, 2), (9, 1.3, 1), (LEAST, 1.3, 0), (500, MOST, 1), (0, None, 0)],
)
def test_few_clips_and_limits_are_told(clips, temperature, told):
    assert len(doubts(clips, temperature)) == told


def test_who_waits_for_a_lock_is_seen_and_gets_it(tmp_path):
    lock, script = (
        tmp_path / "lock",
        (
            "import sys; from pathlib import Path; from safe.files import hold_lock\n"
            "with hold_lock(Path(sys.argv[1]), 'x', wait=print): print('held', flush=True)"
        ),
    )
    with hold_lock(lock, "x") as awaited:
        assert not awaited()
        other = subprocess.Popen(
            [sys.executable, "-uc", script, str(lock)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert "waiting for it" in other.stdout.readline()
        while not awaited():
            pass
    assert other.stdout.readline() == "held\n"
    assert other.wait() == 0
