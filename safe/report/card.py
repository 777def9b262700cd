"""The model card: what someone must know of a model before using it, on two pages of Markdown.

In: a model folder and its evaluation. Out: a card (Mitchell et al.: Model Cards for Model
Reporting. FAT* 2019), with front matter that model hubs read. Every number is computed from the
predictions, by the functions that the report and metrics.json use; the sentences are in card.md.j2
and below.
"""

import platform
import re
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, UndefinedError

from safe.errors import DataError, ModelError, printable
from safe.evaluation.calibrate import selection_rows
from safe.evaluation.calibration import Calibration, trust_metrics
from safe.evaluation.intervals import RECALL, intervals
from safe.evaluation.metrics import confusion, summarize, uar_name
from safe.evaluation.predictions import read_metrics, read_predictions
from safe.files import atomic_file
from safe.saved import load_model
from safe.shards.folder import open_shards

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
    DRAWN: "Animated heads, drawn by this project: clips of made-up people, none in two folds.",
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


_NEEDED: Final = ("weights", "n_test", "war", "n_left_out", "perturb", "severity", "precision")
"""What a card needs of metrics.json."""


def write_card(
    folder: Path, out: Path, *, evaluation: Path | None = None, shards: Path | None = None
) -> None:
    """Write the card of the model in `folder` to the Markdown file `out`.

    Args:
        folder: the model folder.
        out: the file.
        evaluation: folder of its metrics.json and predictions.parquet; without it the card says so.
        shards: those it was trained on; without them, or with others, clips by class are left out.

    Raises:
        ModelError: if the model cannot be read, or its model.json lacks what a card needs.
        DataError: if the evaluation is damaged, or of another model.
    """
    model, info = load_model(folder)
    calibration = Calibration.from_info(info)
    metrics = None if evaluation is None else card_metrics(evaluation, info, calibration)
    try:
        facts = {
            **_about(info),
            **_counts(info, folder, shards),
            "parameters": sum(p.numel() for p in model.parameters()),
            "calibration": calibration,
            "metrics": metrics,
        }
        text = _environment().get_template("card.md.j2").render(facts)
        head = yaml.safe_dump(_front_matter(facts), sort_keys=False, allow_unicode=True)
    except (KeyError, TypeError, ValueError, UndefinedError) as error:
        raise ModelError(
            f"{folder}: model.json lacks what a card tells ({error}); train again"
        ) from error
    with atomic_file(out) as temporary:
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
            "about": _Own(_ABOUT.get(name, _UNKNOWN)),
            "labels": _Own(_LABELS.get(name, "")),
        },
        "split_words": " (a fold or bucket of its own)" if whole else f" ({fraction})",
        "meaning": _Own(MEANING),
        "refused": [_Own(use) for use in REFUSED],
        "duties": _Own(DUTIES),
        "licence": licence_of(name),
        "paper": _Own(PAPER),
        "versions": ", ".join(
            [f"Python {platform.python_version()}"]
            + [f"{package} {version(package)}" for package in ("numpy", "scikit-learn")]
        ),
    }


def _counts(info: dict[str, Any], folder: Path, shards: Path | None) -> dict[str, Any]:
    """Clips by split and class, and why clips were left out, where the shards are those it had."""
    opened = None if shards is None else open_shards(shards)
    if (
        opened is None
        or opened.preprocessing_id != info["preprocessing"]["id"]
        or list(opened.classes) != info["classes"]
    ):
        return {"known": False, "counts": [], "left_out": {}}
    train, test = opened.split(info["fold"])
    held = selection_rows(info, opened, info["fold"], folder)
    rows = {"training": train if held is None else np.setdiff1d(train, held)}
    rows |= {} if held is None else {"selection": held}
    rows |= {"test": test}
    reasons = Counter(str(entry["reason"]) for entry in opened.index["left_out"])
    return {
        "known": True,
        "counts": [{"split": k, "clips": opened.class_counts(v)} for k, v in rows.items()],
        "left_out": dict(reasons.most_common()),
    }


def card_metrics(folder: Path, info: dict[str, Any], calibration: Calibration) -> dict[str, Any]:
    """Compute what an evaluation says of a model.

    Args:
        folder: of metrics.json and predictions.parquet.
        info: the model's model.json.
        calibration: what it says of the model's answers.

    Returns:
        metrics, what metrics.json holds; n, test clips; plain, WAR, UAR and recalls in percent,
        each with `_low` and `_high`; uar_name, which says over how many classes UAR is; rows, a
        dict a class; fewest and weakest, two of them; absent, names of those without test clips;
        before and after, safe.evaluation.calibration's metrics of the plain softmax and of the
        calibrated answers.

    Raises:
        DataError: if a file is missing or damaged, or they are not of this model.
    """
    metrics = read_metrics(folder / "metrics.json", needs=_NEEDED)
    told = (metrics["weights"], metrics["n_test"], metrics["war"])
    split = read_predictions(folder / "predictions.parquet")
    classes, bins = split.classes, int(info["params"]["eval"]["bins"])
    if list(classes) != info["classes"]:
        raise DataError(f"{folder}: of other classes than the model; run `safe-cli eval` for it")
    values: dict[str, Any] = summarize(split.logits, split.label, bins, classes)
    found = (info["weights"]["sha256"], len(split.clip), values["war"])
    if told[:2] != found[:2] or abs(told[2] - found[2]) > 1e-6:
        raise DataError(
            f"{folder}: of another model or another evaluation: weights, clips and WAR are {told}, "
            f"here {found}; run `safe-cli eval` for this model"
        )
    keys = ["war", "uar", *(f"{RECALL}{name}" for name in classes)]
    ends = intervals(keys, split.label, split.logits[None], classes, bins=bins)
    values |= {f"{key}_low": low for key, (low, _) in ends.items()}
    values |= {f"{key}_high": high for key, (_, high) in ends.items()}
    matrix = confusion(split.label, split.predicted, len(classes))
    rows: list[dict[str, Any]] = []
    for k, name in enumerate(classes):
        said, wrong = matrix[:, k].sum(), np.where(np.arange(len(classes)) == k, 0, matrix[k])
        rows.append(
            {
                "name": name,
                "key": f"{RECALL}{name}",
                "n": int(matrix[k].sum()),
                "precision": f"{100 * matrix[k, k] / said:.0f}" if said else "never said",
                "taken_for": f"{classes[wrong.argmax()]} ({wrong.max()})" if wrong.any() else "-",
            }
        )
    present = [row for row in rows if row["n"]]
    return {
        "metrics": metrics,
        "n": len(split.clip),
        "plain": values,
        "uar_name": uar_name(matrix.sum(axis=1)),
        "absent": [row["name"] for row in rows if not row["n"]],
        "rows": rows,
        "fewest": min(present, key=lambda row: row["n"]),
        "weakest": min(present, key=lambda row: values[row["key"]]),
        "before": trust_metrics(split.logits, split.label, Calibration(), bins=bins),
        "after": trust_metrics(split.logits, split.label, calibration, bins=bins),
    }


def _front_matter(facts: dict[str, Any]) -> dict[str, Any]:
    """What model hubs read: licence, tags, task, and the two main metrics."""
    drawn, name = facts["dataset"]["drawn"], facts["dataset"]["name"]
    head: dict[str, Any] = {"license": LICENCE.lower() if drawn else "other"}
    if not drawn:
        head["license_name"] = f"{name}-terms"
    head |= {
        "pipeline_tag": "video-classification",
        "tags": ["dynamic-facial-expression-recognition", "calibration", "conformal-prediction"],
        "metrics": ["accuracy", "recall"],
    }
    if (metrics := facts["metrics"]) and metrics["metrics"]["perturb"] == "none":
        metrics = [
            {"type": kind, "name": f"{key.upper()}, %", "value": round(metrics["plain"][key], 2)}
            for kind, key in (("accuracy", "war"), ("recall", "uar"))
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
        autoescape=False,
        finalize=_escaped,
        keep_trailing_newline=True,
    )
    made.filters["shown"] = _shown
    made.globals["percent"] = lambda share: f"{100 * share:g} %"
    return made


_ACTIVE: Final = re.compile(r"[\\`*<>\[\]#|~&@]|!(?=\[)|(?<!\w)_|_(?!\w)|:(?=//)|(?<=www)\.")
"""What Markdown acts on, HTML and bare addresses among it; a _ within a word is a letter."""


class _Own(str):
    """Text of this project, which may hold Markdown."""


def _escaped(value: Any) -> Any:
    """Write what a model or a shard folder says so that it is words in Markdown, and one line."""
    if not isinstance(value, str) or isinstance(value, _Own):
        return value
    return _ACTIVE.sub(r"\\\g<0>", printable(value))


def _shown(found: dict[str, Any], key: str, digits: int, times: float = 1) -> str:
    """Write a number with its interval, if it has one: `75.3 (69.1 to 81.5)`; `-` for None."""
    value, low, high = (found.get(name) for name in (key, f"{key}_low", f"{key}_high"))
    if value is None:
        return "-"
    text = f"{times * value:.{digits}f}"
    if low is not None and high is not None:
        text += f" ({times * low:.{digits}f} to {times * high:.{digits}f})"
    return text
