"""What does a clip take in training and in inference on this machine, the loader included?"""

import time
from itertools import islice
from pathlib import Path

import numpy as np

from safe.config import Config
from safe.exact_pass import predict
from safe.reading.loader import load_batches
from safe.reading.shards import open_shards
from safe.recipe import pick_precision
from safe.training.trainer import Trainer

WARM, STEPS = 3, 25
FEW, MANY = 32, 512
"""Clips of the two passes of inference."""


def training_rates(config: Config, shards: Path) -> dict[str, float]:
    """Return step, infer and turn (scale_parts/model.py) of params.yaml's model on some shards."""
    folder = open_shards(shards)
    config = config.model_copy(update={"train": config.train.model_copy(update={"epochs": 100})})
    trainer = Trainer(config, folder, 1)
    workers = config.runtime.workers
    loader = load_batches(folder, trainer.plan(0), workers=workers, device=trainer.device)
    clips, start = 0, 0.0
    for number, batch in enumerate(islice(loader, WARM + STEPS)):
        if number == WARM:
            start = time.perf_counter()
        trainer.train_step(batch)
        clips += len(batch["label"]) if number >= WARM else 0
    step = (time.perf_counter() - start) / clips
    loader.close()

    def one_pass(count: int) -> float:
        rows = np.resize(np.arange(len(folder.label)), count)
        start = time.perf_counter()
        predict(
            trainer.model,
            folder,
            rows,
            crop=config.augment.crop,
            batch=config.eval.batch,
            device=trainer.device,
            precision=pick_precision(config.eval.precision, trainer.device, trains=False),
            workers=workers,
        )
        return time.perf_counter() - start

    one_pass(FEW)
    few, many = (sorted(one_pass(count) for _ in range(3))[1] for count in (FEW, MANY))
    infer = (many - few) / (MANY - FEW)
    return {"step": step, "infer": infer, "turn": max(few - FEW * infer, 0.0)}
