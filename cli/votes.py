"""The verb votes: the answers of a run beside those of the people who voted on DFEW's clips."""

import json
from pathlib import Path

import numpy as np

from cli.layout import RESULTS, read
from cli.progress import say
from safe.errors import DataError
from safe.files import atomic_file

TOLD = {
    "vote_kl": "KL divergence from the votes, nats",
    "vote_distance": "total variation distance, 0 to 1",
    "vote_agreement": "people who chose the model's class",
    "vote_confidence": "the model's probability of it",
    "doubt_rank": "rank correlation of the two doubts",
}


def run_votes(params: Path, overrides: list[str] | None) -> None:
    """Compare the test predictions of data.folds with the votes; write results/votes.json."""
    config, layout = read(params, overrides)
    if config.data.name != "dfew":
        raise DataError(f"votes: only DFEW comes with votes; data.name is {config.data.name}")
    from pipeline.datasets.dfew import read_votes
    from safe.evaluation.calibration import Calibration
    from safe.evaluation.metrics import softmax
    from safe.evaluation.predictions import read_predictions
    from safe.evaluation.votes import vote_metrics
    from safe.info import read_info

    votes = read_votes(Path(config.data.root))
    plain, calibrated, counts = [], [], []
    for fold in config.data.folds:
        split = read_predictions(layout.evals / f"fold-{fold}" / "predictions.parquet")
        info = read_info(layout.calibrates / f"fold-{fold}" / "model.json")
        rows = [row for row, clip in enumerate(split.clip) if clip in votes]
        counts += [votes[split.clip[row]] for row in rows]
        plain.append(softmax(split.logits)[rows])
        calibrated.append(Calibration.from_info(info).probabilities(split.logits)[rows])
    found = {
        "before calibration": vote_metrics(np.concatenate(plain), counts),
        "calibrated": vote_metrics(np.concatenate(calibrated), counts),
    }
    for title, metrics in found.items():
        say(f"votes: {title}, {metrics['n']} test clips")
        for name, words in TOLD.items():
            say(f"  {words:36}{_shown(metrics, name)}")
    say(f"  {'people who chose the label':36}{found['calibrated']['people']:.3f}")
    with atomic_file(RESULTS / "votes.json") as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _shown(metrics: dict[str, float | None], name: str) -> str:
    value, low, high = (metrics[key] for key in (name, f"{name}_low", f"{name}_high"))
    if value is None or low is None or high is None:
        return "not defined"
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"
