"""What must someone know of a model before using it, on two pages?

A model folder and its evaluation go in; a model card in Markdown comes out (Mitchell et al.: Model
Cards for Model Reporting. FAT* 2019), with front matter that model hubs read. Every figure is
computed from the predictions, none is written here; the sentences are in card.md.j2 and terms.py.
"""

import json
import platform
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, UndefinedError
from scipy.stats import binomtest

from safe.errors import DataError, ModelError
from safe.evaluation.calibrate import selection_rows
from safe.evaluation.calibration import Calibration, trust_figures
from safe.evaluation.intervals import bootstrap_interval
from safe.evaluation.metrics import Ints, confusion, uar, uar_name, war
from safe.evaluation.predictions import Split, read_predictions
from safe.files import whole_file
from safe.saved import load_model
from safe.shards.folder import ShardFolder, open_shards
from safe.taxonomy import Classes

# Which figures stand on a model card, with which intervals?
#
# An evaluation goes in; numbers come out, rounded only where they are shown as they are.

Interval = tuple[float | None, float | None, float | None]
"""A figure and the ends of its 95 % interval; None where it is not defined."""


def card_figures(folder: Path, info: dict[str, Any], calibration: Calibration) -> dict[str, Any]:
    """Compute what an evaluation says of a model.

    Args:
        folder: of metrics.json and predictions.parquet.
        info: the model's model.json.
        calibration: what it says of the model's answers.

    Returns:
        metrics, what metrics.json holds; n, test clips; war and uar, an Interval each in percent;
        uar_name, which says over how many classes UAR is; rows, a dict a class; fewest and weakest,
        two of them; absent, names of those without test clips; before and after, what
        safe.evaluation.calibration
        says of the plain softmax and of the calibrated answers: ece and aurc as Intervals, nll and
        brier as text, the rest in percent.

    Raises:
        DataError: if a file is missing or damaged, or they are not of this model.
    """
    path = folder / "metrics.json"
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
        told = (metrics["weights"], metrics["n_test"], metrics["war"])
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not found or damaged; `safe-cli eval` makes it") from error
    split = read_predictions(folder / "predictions.parquet")
    if list(split.classes) != info["classes"]:
        raise DataError(f"{folder}: of other classes than the model; run `safe-cli eval` for it")
    classes = split.classes
    matrix = confusion(split.label, split.predicted, len(classes))
    found = (info["weights"]["sha256"], len(split.clip), 100 * war(matrix))
    if told[:2] != found[:2] or abs(told[2] - found[2]) > 1e-6:
        raise DataError(
            f"{folder}: of another model or another evaluation: weights, clips and WAR are {told}, "
            f"here {found}; run `safe-cli eval` for this model"
        )
    rows = [_row(matrix, k, classes) for k in range(len(classes))]
    drawn = {
        figure: bootstrap_interval(split.label, split.predicted, figure, len(classes))
        for figure in (war, uar)
    }
    present = [row for row in rows if row["n"]]
    bins = int(info["params"]["eval"]["bins"])
    return {
        "metrics": metrics,
        "n": len(split.clip),
        "war": _percent(war(matrix), *drawn[war]),
        "uar": _percent(uar(matrix), *drawn[uar]),
        "uar_name": uar_name(matrix.sum(axis=1)),
        "absent": [row["name"] for row in rows if not row["n"]],
        "rows": rows,
        "fewest": min(present, key=lambda row: row["n"]),
        "weakest": min(present, key=lambda row: row["recall"][0]),
        "before": _trust(split, Calibration(), bins),
        "after": _trust(split, calibration, bins),
    }


def _row(matrix: Ints, k: int, classes: Classes) -> dict[str, Any]:
    """What the table by class says of class k."""
    wrong = matrix[k].copy()
    wrong[k] = 0
    guessed = matrix[:, k].sum()
    return {
        "name": classes[k],
        "n": int(matrix[k].sum()),
        "recall": _recall(int(matrix[k, k]), int(matrix[k].sum())),
        "precision": f"{100 * matrix[k, k] / guessed:.0f}" if guessed else "never said",
        "taken_for": f"{classes[wrong.argmax()]} ({wrong.max()})" if wrong.any() else "-",
    }


def _recall(right: int, clips: int) -> Interval:
    """Recall in percent with Wilson's interval: resampling would give none where all are wrong."""
    if not clips:
        return None, None, None
    ends = binomtest(right, clips).proportion_ci(method="wilson")
    return 100 * right / clips, 100 * ends.low, 100 * ends.high


def _trust(split: Split, calibration: Calibration, bins: int) -> dict[str, Any]:
    """Figures of safe.evaluation.calibration with what is shown of each."""
    found = trust_figures(split.logits, split.label, calibration, bins=bins)

    def triple(name: str, times: float = 1.0) -> Interval:
        ends = (found[name], found[f"{name}_low"], found[f"{name}_high"])
        value, low, high = (None if end is None else times * end for end in ends)
        return value, low, high

    def one(name: str, digits: int, times: float = 1.0) -> str:
        value = found[name]
        return "-" if value is None else f"{times * value:.{digits}f}"

    return {
        "ece": triple("ece_calibrated"),
        "aurc": triple("aurc"),
        "nll": one("nll_calibrated", 3),
        "brier": one("brier_calibrated", 3),
        "coverage": triple("coverage", 100),
        "set_size": one("set_size", 2),
        "answered": one("answered", 0, 100),
        "selective_risk": triple("selective_risk", 100),
        "risk_at_80": triple("risk_at_80", 100),
        "error": one("error", 1, 100),
    }


def _percent(value: float, low: float, high: float) -> Interval:
    shown = [None if np.isnan(end) else 100 * end for end in (value, low, high)]
    return shown[0], shown[1], shown[2]


# What do a model's answers mean, under which terms may it be used, and for what not?
#
# The words that go with a model wherever it goes: into the ONNX file and onto the model card.

MEANING: Final = (
    "The answer names the apparent expression of a face: what it looks like to those who labelled "
    "the clips. It does not say what a person feels, thinks or intends."
)

LICENCE: Final = "Apache-2.0"
"""Of the code, and of weights that were learned from drawn faces alone."""

DRAWN: Final = "synthetic"
"""The dataset whose faces this project draws itself."""


def licence_of(dataset: str) -> str:
    """Say under which licence the weights of a model are that was trained on a dataset."""
    if dataset == DRAWN:
        return LICENCE
    return f"code: {LICENCE}; weights: see the terms of the dataset they were learned from"


REFUSED: Final = (
    "To infer the emotions of people at work or in education. In the European Union this is "
    "prohibited, except for medical or safety reasons: Regulation (EU) 2024/1689 (the AI Act), "
    "Article 5(1)(f), which applies since 2 February 2025. The model is not offered under that "
    "exception: it has been tested for no medical and no safety purpose.",
    "To hire, grade, promote, insure, lend to or rank people.",
    "Policing, border control, detection of lies or of intentions.",
    "Diagnosis or any other medical use; decisions about children.",
    "To watch people who do not know of it or could not say no.",
)
"""Uses that the authors refuse, a sentence each."""

DUTIES: Final = (
    "Any other system that is meant for emotion recognition is high-risk in the European Union "
    "(Article 6(2) and Annex III, point 1(c)); who deploys it must inform the people exposed to it "
    "(Article 50(3)) and keep the data protection law: faces are personal data, and often "
    "biometric ones. To speak of apparent expressions changes nothing of this where they serve to "
    "infer emotions (recital 18). What applies to a certain use, and from which day, ask a lawyer; "
    "this is no legal advice."
)
"""What the law asks of uses that are neither refused nor prohibited."""


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
        loader=PackageLoader("safe.report", ""),
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
