"""What must someone know of a model before using it, on two pages?

A model folder and its evaluation go in; a model card in Markdown comes out (Mitchell et al.: Model
Cards for Model Reporting. FAT* 2019), with front matter that model hubs read. Every figure is
computed from the predictions, none is written here; the sentences are in card.md.j2 and terms.py.
"""

import platform
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, UndefinedError

from safe.calibrate import selection_rows
from safe.calibration import Calibration
from safe.card_figures import Interval, card_figures
from safe.errors import ModelError
from safe.process import whole_file
from safe.reading.shards import ShardFolder, open_shards
from safe.saved import load_model
from safe.terms import DRAWN, DUTIES, LICENCE, MEANING, REFUSED, licence_of

PAPER: Final = (
    "Cite the paper: Feng-Qi Cui, Anyang Tong, Jinyang Huang, Jie Zhang, Meng Li, Xin Yan, "
    "Linsheng Huang, Dan Guo, Meng Wang: Towards Trustworthy Dynamic Facial Expression Recognition "
    "via Information Bottleneck Modeling. This implementation and this model are not theirs: who "
    "uses them should name the commit above too."
)

_ABOUT: Final = {
    DRAWN: "Animated faces, drawn by this project: clips of made-up people, none in two folds.",
    "dfew": "DFEW: short clips from films, single-labelled ones, in the official five folds.",
    "ferv39k": "FERV39k: short clips from films and television, in the official split.",
}
_LABELS: Final = {
    DRAWN: "The label is the expression that was drawn; in ambiguous clips, one of two.",
    "dfew": "The label is that of the release: what most of ten annotators chose.",
    "ferv39k": "The label is that of the release, by annotators.",
}
_UNKNOWN: Final = (
    "A dataset of the user's own. Who publishes this model must add here where the clips come "
    "from, who agreed to what, and who labelled them."
)


def write_card(
    folder: Path, out: Path, *, evaluation: Path | None = None, shards: Path | None = None
) -> None:
    """Write the card of a model.

    Args:
        folder: the model folder.
        out: the Markdown file.
        evaluation: folder of its metrics.json and predictions.parquet; without it the card says so.
        shards: those it was trained on; without them, or with others, clips by class are left out.

    Raises:
        ModelError: if the model cannot be read, or its model.json lacks what a card needs.
        DataError: if the evaluation is damaged, or of another model.
    """
    model, info = load_model(folder)
    calibration = Calibration.from_info(info)
    figures = None if evaluation is None else card_figures(evaluation, info, calibration)
    try:
        facts = {
            **_about(info),
            **_counts(info, folder, shards),
            "parameters": sum(p.numel() for p in model.parameters()),
            "calibration": calibration,
            "figures": figures,
        }
        text = _environment().get_template("card.md.j2").render(facts)
        head = yaml.safe_dump(_front_matter(facts), sort_keys=False, allow_unicode=True)
    except (KeyError, TypeError, UndefinedError) as error:
        raise ModelError(
            f"{folder}: model.json lacks what a card tells ({error}); train anew"
        ) from error
    with whole_file(out) as temporary:
        temporary.write_text(f"---\n{head}---\n\n{text.rstrip()}\n", encoding="utf-8")


def _about(info: dict[str, Any]) -> dict[str, Any]:
    """What model.json says, in the words of the card."""
    params, name = info["params"], str(info["dataset"])
    safe = info["architecture"]["name"] == "safe"
    network = f"{info['architecture']['name']}, a published model that SAFE is compared with"
    if safe:
        temporal = {"s2am2": "S2AM2", "bilstm": "a BiLSTM"}[info["architecture"]["temporal"]]
        network = f"SAFE with the backbone {info['architecture']['backbone']} and {temporal}"
    fraction = f"{100 * params['train']['val_fraction']:g} % of the training clips"
    whole = params["train"].get("val_from") == "fold"
    return {
        "title": f"SAFE on {name}, fold {info['fold']}: apparent facial expression in video",
        "info": info,
        "params": params,
        "train": params["train"],
        "safe": safe,
        "network": network,
        "size": info["preprocessing"]["made_from"]["size"],
        "frames": info["frames"],
        "classes": info["classes"],
        "dataset": {
            "name": name,
            "drawn": name == DRAWN,
            "about": _ABOUT.get(name, _UNKNOWN),
            "labels": _LABELS.get(name, ""),
        },
        "split_words": " (a fold or bucket of its own)" if whole else f" ({fraction})",
        "meaning": MEANING,
        "refused": REFUSED,
        "duties": DUTIES,
        "licence": licence_of(name),
        "paper": PAPER,
        "versions": ", ".join(
            [f"Python {platform.python_version()}"]
            + [f"{package} {version(package)}" for package in ("numpy", "scikit-learn")]
        ),
    }


def _counts(info: dict[str, Any], folder: Path, shards: Path | None) -> dict[str, Any]:
    """Clips by split and class, and why clips were left out, where the shards are those it had."""
    opened = None if shards is None else open_shards(shards)
    fits = opened is not None and (opened.preprocessing_id, list(opened.classes)) == (
        info["preprocessing"]["id"],
        info["classes"],
    )
    if opened is None or not fits:
        return {"known": False, "counts": [], "left_out": {}}
    train, test = opened.split(info["fold"])
    held = selection_rows(info, opened, info["fold"], folder)
    rows = {"training": train if held is None else np.setdiff1d(train, held)}
    rows |= {} if held is None else {"selection": held}
    rows |= {"test": test}
    counts = [
        {"split": name, "clips": opened.class_counts(chosen)} for name, chosen in rows.items()
    ]
    return {"known": True, "counts": counts, "left_out": _left_out(opened)}


def _left_out(opened: ShardFolder) -> dict[str, int]:
    return dict(Counter(str(entry["reason"]) for entry in opened.index["left_out"]).most_common())


def _front_matter(facts: dict[str, Any]) -> dict[str, Any]:
    """What model hubs read: licence, tags, task, and the two main figures."""
    drawn, name = facts["dataset"]["drawn"], facts["dataset"]["name"]
    head: dict[str, Any] = {"license": LICENCE.lower() if drawn else "other"}
    if not drawn:
        head["license_name"] = f"{name}-terms"
    head |= {
        "pipeline_tag": "video-classification",
        "tags": ["dynamic-facial-expression-recognition", "calibration", "conformal-prediction"],
        "metrics": ["accuracy", "recall"],
    }
    if (figures := facts["figures"]) and figures["metrics"]["perturb"] == "none":
        values = {"accuracy": ("WAR", figures["war"]), "recall": ("UAR", figures["uar"])}
        metrics = [
            {"type": kind, "name": f"{word}, %", "value": round(value[0], 2)}
            for kind, (word, value) in values.items()
        ]
        where = {"name": f"{name}, fold {facts['info']['fold']}, test", "type": name}
        task = {"type": "video-classification"}
        results = [{"task": task, "dataset": where, "metrics": metrics}]
        head["model-index"] = [{"name": f"safe-{name}", "results": results}]
    return head


def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("safe", "."),
        undefined=StrictUndefined,
        autoescape=False,  # Markdown
        keep_trailing_newline=True,
    )
    made.filters["interval"] = _shown
    made.globals["percent"] = lambda share: f"{100 * share:g} %"
    return made


def _shown(figure: Interval, digits: int) -> str:
    """Write a figure with its interval: `75.3 (69.1 to 81.5)`; `-` where it is not defined."""
    value, low, high = figure
    if value is None:
        return "-"
    if low is None or high is None:
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
