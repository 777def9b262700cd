"""A run: exact resume, selection rules, and that it learns."""

import dataclasses
import json
import math
import re
import sys
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support import ROOT
from support import small_config as usual_config

from safe.code import code_of
from safe.config import Config
from safe.errors import ConfigError, ModelError
from safe.models.registry import build_model
from safe.saved import load_model
from safe.shards.folder import ShardFolder, open_shards
from safe.shards.loader import load_batches
from safe.training.device import REPAID, learning_rate, pick_compile
from safe.training.loop import PARTS, Trainer
from safe.training.losses import ACL
from safe.training.tam import TAM
from safe.training.train import _fingerprint, train
from safe.training.transforms import CropFlip, normalize


def small_config(project: Path, *overrides: str) -> Config:
    """Two windows a clip: half the time of the usual four."""
    return usual_config(project, "model.stride=12", *overrides)


def run(config: Config, folder, shards, **changes) -> bool:
    settings = {
        "shards": shards,
        "fold": 1,
        "out": folder / "model",
        "checkpoints": folder / "checkpoints",
        "commit": "none",
    }
    return train(config, **(settings | changes))


def test_stopping_and_going_on_equals_not_stopping_bit_for_bit(project, shards, tmp_path):
    whole = small_config(project, "train.epochs=2", "runtime.workers=0", "train.select=val")
    again = small_config(project, "train.epochs=2", "runtime.workers=1", "train.select=val")
    assert run(whole, tmp_path / "whole", shards)
    assert not run(whole, tmp_path / "parts", shards, stop_after=7)  # of 5 an epoch
    assert run(again, tmp_path / "parts", shards)  # with another number of workers
    first, first_info = load_model(tmp_path / "whole" / "model")
    second, second_info = load_model(tmp_path / "parts" / "model")
    for (name, a), b in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert without_time(first_info) == without_time(second_info)
    assert not checkpoints_in(tmp_path / "parts")


def checkpoints_in(folder: Path) -> list[Path]:
    return sorted((folder / "checkpoints").rglob("*.safetensors"))


def steps_in(folder: Path) -> list[int]:
    return [int(path.stem) for path in checkpoints_in(folder)]


def test_checkpoints_by_steps_change_no_result_and_the_last_two_are_kept(project, shards, tmp_path):
    few, stop = (
        ("train.epochs=2", "runtime.workers=0"),
        int(np.random.default_rng(7).integers(8, 13)),
    )
    run(small_config(project, *few), tmp_path / "whole", shards)
    for end in (7, stop):
        run(small_config(project, *few), tmp_path / "parts", shards, stop_after=end)
    assert steps_in(tmp_path / "parts") == [7, stop]  # 7 steps an epoch
    often = small_config(
        project, "train.epochs=2", "runtime.workers=2", "runtime.checkpoint_steps=3"
    )
    assert not run(often, tmp_path / "parts", shards, stop_after=14)
    assert steps_in(tmp_path / "parts") == [12, 14]
    assert run(often, tmp_path / "parts", shards)
    files = [tmp_path / name / "model" / "model.safetensors" for name in ("whole", "parts")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert not checkpoints_in(tmp_path / "parts")


def test_a_damaged_last_checkpoint_costs_steps_and_no_bytes(project, shards, tmp_path):
    config = small_config(
        project, "train.epochs=1", "runtime.workers=0", "runtime.checkpoint_steps=2"
    )
    run(config, tmp_path / "whole", shards)
    run(config, tmp_path / "parts", shards, stop_after=5)
    last = checkpoints_in(tmp_path / "parts")[-1]
    last.write_bytes(last.read_bytes()[:-1] + b"?")
    notes: list[str] = []
    assert run(config, tmp_path / "parts", shards, on_note=notes.append)
    (note,) = notes
    assert f"{last.name}: its content does not have its sha256" in note
    assert "going on from 0000000004.safetensors" in note
    files = [tmp_path / name / "model" / "model.safetensors" for name in ("whole", "parts")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_what_the_result_depends_on_names_the_run_and_nothing_else(
    project, shards, tmp_path, monkeypatch
):
    """The state of a run is taken up by the same run only."""
    folder, config = open_shards(shards), small_config(project)

    def name(*overrides: str, among: ShardFolder = folder, fold: int = 1) -> str:
        return _fingerprint(small_config(project, *overrides), among, fold)

    same = {
        name("runtime.workers=0"),
        name("runtime.checkpoint_steps=3"),
        name("runtime.checkpoint=5"),
        name("data.folds=[1,2]"),
        name("eval.batch=8"),  # with select: last, no evaluation is part of the run
    }
    assert same == {name()}
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"one")
    use = f"model.weights={weights}"
    found = [name(), name(use), name("seed=1"), name("train.lr=0.002"), name(fold=2)]
    weights.write_bytes(b"two")
    found.append(name(use))
    found.append(name("train.select=test"))
    found.append(name("train.select=test", "eval.batch=8"))
    other = folder.label.copy()
    other[0] = (other[0] + 1) % 7
    found.append(name(among=dataclasses.replace(folder, label=other)))
    monkeypatch.setattr(torch, "__version__", "another")
    found.append(_fingerprint(config, folder, 1))
    assert len(set(found)) == len(found)


def without_time(info: dict) -> dict:
    history = [{k: v for k, v in row.items() if k != "clips_per_s"} for row in info["history"]]
    return {**info, "history": history, "sha256": ""}  # a sum over the times too


def test_going_on_is_exact_in_parts_and_recomputed_too(project, shards, tmp_path):
    ways = ("train.accumulate=4", "train.recompute=true")
    config = small_config(project, "train.epochs=1", "runtime.workers=0", *ways)
    run(config, tmp_path / "whole", shards)
    run(config, tmp_path / "parts", shards, stop_after=4)
    run(config, tmp_path / "parts", shards)
    files = [tmp_path / name / "model" / "model.safetensors" for name in ("whole", "parts")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_training_leaves_no_file_open(project, shards, tmp_path):
    few = ("train.epochs=1", "train.batch=28")
    config = small_config(project, "runtime.workers=2", *few)
    run(config, tmp_path / "first", shards)  # imports, and opens what stays
    before = open_files()
    run(config, tmp_path / "second", shards)
    assert open_files() == before


def open_files() -> list[str]:
    found = []
    for number in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # that of the listing itself is closed by now
            found.append(str(number.readlink()))
    return sorted(name for name in found if name.startswith("/"))


def test_a_top_k_of_as_many_classes_as_the_shards_have_is_refused(project, shards, tmp_path):
    told = r"^params: acl\.top_k = 7: must be at most K - 1 = 6, since the shards in .+ 7 classes$"
    with pytest.raises(ConfigError, match=told):
        run(small_config(project, "acl.top_k=7"), tmp_path, shards)


@pytest.mark.parametrize("strategy", ["tam", "none"])
def test_a_step_is_what_it_says_bit_for_bit(project, shards, strategy):
    """The first three updates, written out: data, augmentation, TAM, loss, clipping, AdamW."""
    config = small_config(project, "train.warmup=1", f"tam.strategy={strategy}")
    trainer = Trainer(config, open_shards(shards), 1)
    found = islice(load_batches(trainer.folder, trainer.plan(0), workers=0), 3)
    batches = [{**batch, "faces": batch["faces"].clone()} for batch in found]
    torch.manual_seed(config.seed)
    model = build_model(7, **config.model.model_dump()).train()
    counts = torch.from_numpy(trainer.folder.class_counts(trainer.train_rows))
    acl = ACL(counts, **config.acl.model_dump())
    tam = TAM(**config.tam.model_dump(), classes=7)
    parameters = [*model.parameters(), *acl.parameters()]
    decayed = [p for p in parameters if p.ndim > 1]
    rest = [p for p in parameters if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": config.train.weight_decay},
        {"params": rest, "weight_decay": 0},
    ]
    optimizer = torch.optim.AdamW(groups, foreach=False)
    total = torch.zeros(4)
    for step, batch in enumerate(batches):
        seed = int(np.random.SeedSequence([config.seed, step]).generate_state(1, np.uint64)[0])
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        clips = CropFlip(32, config.augment.flip)(batch["faces"], batch["label"], generator)
        clips = tam(clips, batch["label"], generator)
        for group in optimizer.param_groups:
            group["lr"] = config.train.lr * (step + 1) / 7  # seven steps of warm-up
        output = model(normalize(clips))
        losses = acl(output.logits, output.embedding, batch["label"])
        optimizer.zero_grad()
        losses["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.train.clip_grad)
        optimizer.step()
        total += torch.stack([losses[name].detach() for name in PARTS])
        trainer.train_step(batch)
        assert torch.equal(trainer.tally["parts"], total)
    assert trainer.tally["confusion"].sum() == 3 * config.train.batch
    ours = trainer.model.state_dict()
    assert all(torch.equal(ours[name], value) for name, value in model.state_dict().items())


def test_compile_by_itself_is_for_long_runs_on_a_gpu(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function: function)
    monkeypatch.setattr(torch, "zeros", lambda *_, device: torch.ones(2))
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert pick_compile("auto", gpu, steps=REPAID, plain=True)
    assert not pick_compile("auto", gpu, steps=REPAID - 1, plain=True)
    assert not pick_compile("auto", gpu, steps=REPAID, plain=False)
    assert not pick_compile("auto", cpu, steps=10**6, plain=True)
    assert pick_compile(True, cpu, steps=1, plain=False)
    assert not pick_compile(False, gpu, steps=10**6, plain=True)


def test_where_nothing_compiles_true_is_one_line_and_auto_is_false(monkeypatch):
    def fail(_):
        raise RuntimeError("no compiler\nand more")

    monkeypatch.setattr(torch, "compile", lambda _: fail)
    with pytest.raises(ConfigError, match=r"compile here \(no compiler\); use false$"):
        pick_compile(True, torch.device("cpu"), steps=1, plain=True)
    monkeypatch.setattr(torch, "zeros", lambda *_, device: torch.ones(2))
    notes = []
    gpu = torch.device("cuda")
    assert not pick_compile("auto", gpu, steps=10**6, plain=True, on_note=notes.append)
    (note,) = notes
    assert "not compiled" in note
    assert "no compiler" in note
    assert not pick_compile("auto", gpu, steps=1, plain=True, on_note=notes.append)
    assert len(notes) == 1


@pytest.mark.parametrize("lacks", ["compiler", "cache", "folder"])
def test_a_compiler_or_a_place_for_what_it_makes_is_missing(monkeypatch, tmp_path, lacks):
    """Also where an earlier run compiled the same: torch keeps it."""
    from torch._inductor import config

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    if lacks == "compiler":
        monkeypatch.setattr(config.cpp, "cxx", ("/nonexistent",))
    elif lacks == "cache":
        (tmp_path / "cache").touch()
    else:
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/proc/nowhere")
    torch.compiler.reset()
    with pytest.raises(ConfigError, match=r"train\.compile = true: torch cannot") as caught:
        pick_compile(True, torch.device("cpu"), steps=1, plain=True)
    assert "\n" not in str(caught.value)


def test_a_training_needs_nothing_of_dvc():
    """DVC opens the repository, and so asks for a user's name and folders to write to."""
    code = "\n".join((ROOT / path).read_text() for path in code_of("safe.training.train"))
    assert not re.search(r"^\s*(from|import) dvc", code, re.MULTILINE)


def test_compiling_leaves_names_and_steps_as_they_are(project, shards, monkeypatch):
    """In two parts, so that the pass without a graph is traced too.

    With the backend that runs what was traced as it stands: a real one is slow to start.
    """
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    folder, found = open_shards(shards), []
    for value in ("true", "false"):
        trainer = Trainer(
            small_config(project, "train.accumulate=2", f"train.compile={value}"), folder, 1
        )
        for batch in islice(load_batches(folder, trainer.plan(0), workers=0), 2):
            trainer.train_step(batch)
        found.append(trainer.tensors())
        assert (trainer.network is trainer.model) == (value == "false")
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        assert torch.allclose(value.double(), found[1][name].double(), atol=1e-5), name


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("way", ["train.accumulate=1", "train.accumulate=4"])
def test_the_host_never_waits_for_the_gpu_within_a_step(project, shards, way):
    trainer = Trainer(small_config(project, "runtime.device=cuda", way), open_shards(shards), 1)
    batches = load_batches(trainer.folder, trainer.plan(0), workers=0, device=trainer.device)
    trainer.train_step(next(batches))  # the first one makes the bank and the optimizer's state
    assert trainer.optimizer.defaults["fused"]
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in islice(batches, 3):
            trainer.train_step(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_another_seed_or_parameter_is_another_run(project, shards, tmp_path):
    one = "train.epochs=1"
    run(small_config(project, one), tmp_path, shards, stop_after=3)
    run(small_config(project, one, "train.lr=0.002"), tmp_path, shards, stop_after=3)
    run(small_config(project, one, "runtime.workers=0", "runtime.checkpoint=5"), tmp_path, shards)
    assert len(checkpoints_in(tmp_path)) == 1  # the first was finished, the second still waits


def test_the_loss_falls_and_the_log_has_what_it_should(project, shards, tmp_path):
    plain = ("tam.strategy=none", "augment.crop=48", "augment.flip=0", "model.dropout=0")
    few = ("train.epochs=12", "train.lr=0.003", "runtime.workers=0")
    config = small_config(project, *plain, *few)
    seen = []
    run(config, tmp_path, shards, on_epoch=lambda epoch, row: seen.append((epoch, row)))
    assert [epoch for epoch, _ in seen] == list(range(1, 13))
    assert seen[-1][1]["loss"] < 0.9 * seen[0][1]["loss"]  # of the classes' shares alone: 0.97
    row = seen[-1][1]
    parts = row["ce"] + config.acl.lambda_1 * row["logit"] + config.acl.lambda_2 * row["feature"]
    assert math.isclose(row["loss"], parts, rel_tol=1e-4)
    assert row["lr"] == pytest.approx(config.train.lr_min)
    live = tmp_path / "model" / "live"
    for name in row:
        head, *lines = (live / "plots" / "metrics" / f"{name}.tsv").read_text().splitlines()
        assert head == f"step\t{name}"
        assert lines == [f"{epoch}\t{each[name]}" for epoch, (_, each) in enumerate(seen)]
    assert json.loads((live / "metrics.json").read_text()) == {**row, "step": 11}


def test_tam_counts_are_logged_and_complete(project, shards, tmp_path):
    rows = []
    config = small_config(project, "runtime.workers=0")
    run(config, tmp_path, shards, on_epoch=lambda _, row: rows.append(row))
    chosen = math.floor(config.tam.ratio * config.train.batch)
    for row in rows:
        assert row["tam_batch"] + row["tam_bank"] + row["tam_alone"] == 7 * chosen
    assert rows[-1]["tam_alone"] == 0


def test_the_model_says_how_its_epoch_was_selected(project, shards, tmp_path):
    few = ("runtime.workers=0", "train.epochs=2", "train.val_from=clips")
    found = {}
    for rule in ("last", "val"):
        run(small_config(project, f"train.select={rule}", *few), tmp_path / rule, shards)
        found[rule] = load_model(tmp_path / rule / "model")[1]
        assert found[rule]["selection"]["rule"] == rule
    assert found["last"]["selection"]["epoch"] == 2
    assert found["val"]["selection"]["epoch"] == best_epoch(found["val"])
    assert found["last"]["train_clips"] == 56
    assert found["val"]["train_clips"] == 56 - 7  # at least one a class


def best_epoch(info: dict) -> int:
    figures = [row["select_uar"] for row in info["history"]]
    return 1 + figures.index(max(figures))


def test_the_selected_weights_are_those_of_the_selected_epoch(project, shards, tmp_path):
    """With the rate of the later epochs at next to nothing, the first best epoch is told apart."""
    config = small_config(project, "train.select=test", "runtime.workers=0", "train.epochs=3")
    run(config, tmp_path / "a", shards)
    _, info = load_model(tmp_path / "a" / "model")
    assert (info["selection"]["rule"], info["train_clips"]) == ("test", 56)
    epoch = info["selection"]["epoch"]
    assert epoch == best_epoch(info)
    last = small_config(project, "train.select=last", "runtime.workers=0", "train.epochs=3")
    run(last, tmp_path / "b", shards, stop_after=7 * epoch)
    kept = load_file(checkpoints_in(tmp_path / "b")[-1])
    best = load_file(tmp_path / "a" / "model" / "model.safetensors")
    assert all(torch.equal(kept[f"model/{name}"], value) for name, value in best.items())


def test_what_cannot_be_trained_is_one_line(project, shards, tmp_path):
    with pytest.raises(ConfigError, match=r"train\.batch = 100: must be at most the 56 clips"):
        run(small_config(project, "train.batch=100"), tmp_path, shards)
    with pytest.raises(ConfigError, match=r"accumulate: 3 must cut batch, 8 clips, into equal"):
        small_config(project, "train.accumulate=3")
    with pytest.raises(ConfigError, match=r"accumulate: 8 must cut .* parts of at least 2"):
        small_config(project, "train.accumulate=8")
    with pytest.raises(ConfigError, match=r"recompute: must be false when compile is true"):
        small_config(project, "train.recompute=true", "train.compile=true")
    with pytest.raises(ConfigError, match=r"augment\.crop = 64: the faces in .* have 48 pixels"):
        run(small_config(project, "augment.crop=64", "shard.size=64"), tmp_path, shards)
    with pytest.raises(ModelError, match="the loss is not finite in epoch 1"):
        run(
            small_config(project, "train.lr=1e30", "train.clip_grad=null", "runtime.workers=0"),
            tmp_path,
            shards,
        )


def test_the_rate_warms_up_and_falls_to_its_end(project):
    settings = small_config(
        project, "train.epochs=10", "train.warmup=2", "train.lr=0.1", "train.lr_min=0.001"
    ).train
    rates = [learning_rate(settings, step, 5) for step in range(50)]
    assert rates[:10] == pytest.approx([0.01 * (step + 1) for step in range(10)])
    assert rates[10] == pytest.approx(0.1)
    assert rates[-1] == pytest.approx(0.001)
    middle = 0.001 + 0.099 * (1 + math.cos(math.pi * 20 / 39)) / 2
    assert rates[30] == pytest.approx(middle)
