"""The model that ships: its files are those of its record, and it reads a drawn smile."""

import json
from pathlib import Path

import numpy as np
import pytest

import safe
from pipeline.synthetic.clip import draw_clip
from pipeline.synthetic.plan import plan_clips
from safe.config import Synthesize
from safe.evaluation.sheet import hydra_text, read_settings
from safe.saved import file_digest, read_info

SHIPPED = Path(safe.__file__).parent / "default"


def test_the_files_are_those_of_the_record() -> None:
    record = json.loads((SHIPPED / "record.json").read_text())
    info = read_info(SHIPPED / "model.json")
    assert {name: file_digest(SHIPPED / name) for name in record["sha256"]} == record["sha256"]
    assert set(record["sha256"]) == {"model.json", "model.safetensors"}
    assert record["metrics"]["weights"] == info["weights"]["sha256"]
    assert (record["seed"], record["commit"]) == (info["seed"], info["commit"])
    settings = {key: hydra_text(value) for key, value in read_settings("default").items()}
    assert record["settings"] == [f"{key}={value}" for key, value in settings.items()]
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 5e6
    assert "unproven" in (SHIPPED / "card.md").read_text()


@pytest.mark.parametrize("label", ["happy", "surprise"])
def test_it_reads_a_drawn_expression_of_people_it_never_saw(label: str) -> None:
    predictor = safe.load_model(device="cpu")
    shard = predictor.crops.shard
    settings = Synthesize(seed=12345, clips=70, identities=35, variety=0.0, ambiguity=0.0)
    plans = [plan for plan in plan_clips(settings) if plan.label == label][:5]
    clips = [draw_clip(p, settings).faces(shard.size, shard.frames, shard.margin) for p in plans]
    verdicts = predictor.judge(np.stack(clips))
    said = [predictor.classes[int(np.argmax(verdict.probabilities))] for verdict in verdicts]
    assert said.count(label) >= 4, said
