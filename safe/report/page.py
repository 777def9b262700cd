"""How do figures, charts and words become one page that needs nothing else?

The page has no script, and its Content-Security-Policy forbids every request: styles are allowed by
their hash, pictures as data. What comes from data is escaped by Jinja and by markupsafe.
"""

import base64
import hashlib
from collections.abc import Sequence
from datetime import datetime
from importlib.resources import files
from typing import Any, Final

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from safe.evaluation.metrics import Floats
from safe.report import canvas, charts, sources
from safe.report.charts import (
    SIDE,
    Case,
    attention_chart,
    bars_chart,
    charts_together,
    choose,
    class_keys,
    interval_cell,
    read_strips,
    trust_charts,
)
from safe.report.gather import Experiment
from safe.report.pictures import choose_clips, silhouette, tsne
from safe.report.results import (
    Comparison,
    by_class,
    by_fold,
    by_set,
    compare,
    confusion_rows,
    plain_figures,
    trust_figures,
)
from safe.report.sources import Sources
from safe.taxonomy import Classes

CASES: Final = 6
"""Clips shown of each kind."""

EMBEDDED: Final = 800
"""Clips of the embedding's picture at most: a t-SNE of these takes some seconds."""


_ON_DARK: Final = {
    canvas.ORANGE: canvas.ORANGE,
    canvas.BLUE: "#3f97d6",
    canvas.BLACK: "#f2f2f2",
    canvas.RED: "#f0813a",
    canvas.SKY: "#8fd0f5",
    canvas.GREEN: "#2cc296",
    canvas.PURPLE: "#d98fb8",
}
"""Colours of classes on a dark ground, where they were chosen by eye."""


def render_page(
    experiment: Experiment, others: Sequence[Experiment], given: Sources, *, now: datetime
) -> str:
    """Write the page of an experiment, with comparisons to others.

    Args:
        experiment: what the page is about.
        others: to compare with; may be empty.
        given: what is known beside the predictions.
        now: the time to be shown.

    Returns:
        HTML, some 100 KB, and 20 KB for each clip that is shown.
    """
    environment = Environment(
        loader=PackageLoader("safe.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = _style(experiment.classes)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    every, changed = sources.params(experiment, given)
    cost, cost_note = sources.cost(experiment)
    return environment.get_template("page.html.j2").render(
        experiment=experiment,
        classes=experiment.classes,
        many=len(experiment.classes) > canvas.MANY,
        dataset=_dataset(experiment),
        title=_title(experiment),
        style=Markup(style),
        digest=digest,
        now=now,
        given=given,
        history=_histories(experiment),
        params=every,
        changed=changed,
        cost=cost,
        cost_note=cost_note,
        interval_cell=interval_cell,
        class_keys=class_keys(experiment.classes),
        comparisons=[_comparison(experiment, other, i) for i, other in enumerate(others)],
        together=charts_together(experiment, others),
        **_results(experiment),
        **trust_charts(experiment),
        **_embedding(experiment),
        **_cases(experiment, given),
    )


def _style(classes: Classes) -> str:
    """Return the style sheet, the colours of all figures before it as custom properties.

    After it those of the classes, k0 being the first: a name may hold what CSS does not allow.
    """
    named = {name: getattr(canvas, name.upper()) for name in ("blue", "red", "green", "orange")}
    named |= {"sky": canvas.SKY, "purple": canvas.PURPLE}
    colours = "".join(f"--{name}:{colour};" for name, colour in named.items())
    sheet = files("safe.report").joinpath("style.css").read_text(encoding="utf-8")
    looks = [colour for colour, _ in canvas.class_looks(classes).values()]
    marks = "".join(f".k{k}{{--c:{colour}}}" for k, colour in enumerate(looks))
    dark = "".join(f".k{k}{{--c:{_on_dark(colour)}}}" for k, colour in enumerate(looks))
    dark = f"@media screen and (prefers-color-scheme: dark){{{dark}}}"
    return f"\n:root{{{colours}}}\n{sheet}{marks}\n{dark}\n"


def _on_dark(colour: str) -> str:
    """Return a colour #rrggbb as it is on a dark ground: the lighter the darker it is."""
    if found := _ON_DARK.get(colour):
        return found
    parts = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    light = sum(w * part for w, part in zip((0.21, 0.72, 0.07), parts, strict=True)) / 255
    white = max(0.0, 0.55 - light)
    return "#" + "".join(f"{round(part + white * (255 - part)):02x}" for part in parts)


def _dataset(experiment: Experiment) -> str:
    """Name the dataset that the model was trained on."""
    return next(
        (str(name) for fold in experiment.folds.values() if (name := fold.info.get("dataset"))),
        "a dataset that is not known",
    )


def _architecture(experiment: Experiment) -> dict[str, Any]:
    """The network, as model.json of the first fold gives it; empty without one."""
    found: dict[str, Any] = next(iter(experiment.folds.values())).info.get("architecture", {})
    return found


def _frames(experiment: Experiment) -> int | None:
    """Frames of a clip, as model.json of the first fold gives them; None without one."""
    found: int | None = next(iter(experiment.folds.values())).info.get("frames")
    return found


def _title(experiment: Experiment) -> str:
    """Say which model on which dataset."""
    network = _architecture(experiment).get("name", experiment.name)
    if network == "safe":
        network = f"SAFE ({_architecture(experiment).get('backbone')} backbone)"
    return f"{network} on {_dataset(experiment)}"


def _results(experiment: Experiment) -> dict[str, Any]:
    """The figures, by class and by fold, and the confusion matrix."""
    plain, trust = plain_figures(experiment), trust_figures(experiment)
    calibrated = ("ece_calibrated",) if experiment.calibrated else ()
    shown = [plain["war"], plain["uar"], plain["ece"], *(trust[key] for key in calibrated)]
    shown += [trust["aurc"], trust["risk_at_80"]]
    if experiment.sets is not None:
        shown.append(trust["coverage"])
    if experiment.abstains.any():
        shown.append(trust["answered"])
    return {
        "plain": plain,
        "trust": trust,
        "headline": shown,
        "by_class": by_class(experiment),
        "by_fold": by_fold(experiment),
        "confusion": (matrix := confusion_rows(experiment)),
        "absent": [row["name"] for row in matrix if not row["clips"]],
        "sets": by_set(experiment, trust["coverage"]),
    }


def _embedding(experiment: Experiment) -> dict[str, Any]:
    """The t-SNE of the embedding, of at most EMBEDDED clips of the first fold.

    Of one fold, since each fold has a network of its own and its embedding other axes.
    """
    number, fold = next(iter(experiment.folds.items()))
    split = fold.split
    rows = choose_clips(split.label, EMBEDDED, seed=0)
    points, label = split.embedding[rows], split.label[rows]
    if len(rows) < 4 or not np.isfinite(points).all():
        return {"embedding": None}
    title = f"Embedding of {len(rows)} test clips of fold {number}, by t-SNE"
    return {
        "embedding": {
            "fold": number,
            "clips": len(rows),
            "counts": np.bincount(label, minlength=len(split.classes)).tolist(),
            "silhouette": silhouette(points, label),
            "chart": charts.scatter_chart(
                "embedding", title, tsne(points, 0), label, split.classes
            ),
        }
    }


def _histories(experiment: Experiment) -> dict[int, list[Markup]]:
    """The training curves of the first fold that has some."""
    for number, fold in experiment.folds.items():
        if fold.info.get("history"):
            return {number: charts.history_charts(fold.info["history"])}
    return {}


def _cases(experiment: Experiment, given: Sources) -> dict[str, Any]:
    """The clips that are shown, with faces where they may be and are at hand."""
    data = sources.data(given)
    groups = choose(experiment, CASES)
    strips = {}
    frames = _frames(experiment)
    if given.faces and data.folder is not None and frames in (None, data.folder.frames):
        strips = read_strips(data.folder, [case.clip for group in groups for case in group])
    titles = ("Most confident and wrong", "Most doubtful")
    return {
        "data": data,
        "frames": data.folder.frames if data.folder else frames,
        "side": SIDE,
        "cases": [
            (title, [_case(experiment, case, strips) for case in group])
            for title, group in zip(titles, groups, strict=True)
        ],
    }


def _case(experiment: Experiment, case: Case, strips: dict[str, str]) -> dict[str, Any]:
    """What the page shows of a clip."""
    weights = experiment.split.attention[case.row]
    sets, classes = experiment.sets, experiment.classes
    inside = [True] * len(classes) if sets is None else sets[case.row].tolist()
    return {
        "about": case,
        "fold": int(experiment.fold_of[case.row]),
        "strip": strips.get(case.clip),
        "attention": _attention(f"attention-{case.row}", weights, experiment),
        "bars": bars_chart(
            f"chances-{case.row}",
            experiment.probabilities[case.row].tolist(),
            classes,
            true=classes.index(case.label),
            inside=inside,
        ),
        "set": None if sets is None else [classes[k] for k in np.flatnonzero(inside)],
    }


def _attention(name: str, weights: Floats, experiment: Experiment) -> Markup | None:
    """Windows under their frames; None for a rival, whose attention is not over windows of ours."""
    network, frames = _architecture(experiment), _frames(experiment)
    window, stride = network.get("window"), network.get("stride")
    if network.get("name") != "safe" or not (isinstance(window, int) and isinstance(stride, int)):
        return None
    if frames is None or stride < 1 or (len(weights) - 1) * stride + window > frames:
        return None
    return attention_chart(name, weights.tolist(), window=window, stride=stride, frames=frames)


def _comparison(experiment: Experiment, other: Experiment, place: int) -> dict[str, Any]:
    """A comparison, with the scales of its small charts by unit."""
    found: Comparison = compare(experiment, other)
    scales: dict[str, tuple[float, float]] = {}
    for pair in found.pairs:
        ends = (pair.difference.low, pair.difference.high, pair.difference.value)
        most = max(abs(end) for end in ends if end is not None)
        unit = pair.difference.unit
        wide = max(most * 1.1, scales.get(unit, (0.0, 1e-9))[1])
        scales[unit] = (-wide, wide)
    return {"found": found, "scales": scales, "place": place}
