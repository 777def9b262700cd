"""The page of an experiment: one HTML file of words, tables and pictures that needs nothing else.

The page has no script, and its Content-Security-Policy forbids every request: styles are allowed by
their hash, pictures as data or as SVG in the page itself. What comes from data is escaped by Jinja
and by inline(). Shapes: n clips, K classes.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.resources import files
from typing import Any, Final, NamedTuple

import numpy as np
import simplejpeg
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from safe.errors import DataError, printable
from safe.evaluation.metrics import COVERAGE_SHOWN, Floats, ece, reliability, risk_coverage
from safe.report import results
from safe.report.canvas import MANY, class_looks
from safe.report.contact import chances_column, windows_strip
from safe.report.gather import Experiment, Sources
from safe.report.inline import colour_rules, inline
from safe.report.pictures import (
    choose_clips,
    class_key,
    curves_column,
    embedding_column,
    reliability_column,
    silhouette,
    tsne,
)
from safe.shards.clips import ClipReader
from safe.shards.folder import ShardFolder

CASES: Final = 6
"""Clips shown of each kind."""

EMBEDDED: Final = 800
"""Clips of the embedding's picture at most: a t-SNE of these takes some seconds."""

SIDE: Final = 64
"""Pixels of a face in the picture; 16 of them take some 25 KB. The page shows them smaller."""

QUALITY: Final = 82

_BARS: Final = 11
"""Classes whose probabilities are shown of a clip."""


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
        HTML, some 200 KB, and 20 KB for each clip that is shown.
    """
    environment = Environment(
        loader=PackageLoader("safe.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,  # no control character of a name or a reason, even in a page
        trim_blocks=True,
        lstrip_blocks=True,
    )
    sheet = files("safe.report").joinpath("style.css").read_text(encoding="utf-8")
    style = f"\n{colour_rules()}{sheet}"
    every, changed = results.params(experiment, given)
    cost, cost_note = results.cost(experiment)
    looks = class_looks(experiment.classes).values()
    return environment.get_template("page.html.j2").render(
        experiment=experiment,
        classes=experiment.classes,
        many=len(experiment.classes) > MANY,
        title=_title(experiment),
        style=Markup(style),
        digest=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        now=now,
        given=given,
        params=every,
        changed=changed,
        cost=cost,
        cost_note=cost_note,
        class_keys=[
            inline(class_key(look), f"key-{k}", class_="key") for k, look in enumerate(looks)
        ],
        comparisons=[_comparison(experiment, other) for other in others],
        together=_together(experiment, others) if others else None,
        history=_history(experiment),
        by_group=results.by_group(experiment, given.factors),
        **_metrics(experiment),
        **_calibration(experiment),
        **_embedding(experiment),
        **_clips(experiment, given),
    )


def _shown(value: Any) -> Any:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _title(experiment: Experiment) -> str:
    """Say which model on which dataset."""
    network = experiment.network.get("name", experiment.name)
    if network == "safe":
        network = f"SAFE ({experiment.network.get('backbone')} backbone)"
    return f"{network} on {experiment.dataset}"


def _metrics(experiment: Experiment) -> dict[str, Any]:
    """The metrics, those of the headline, and by class, fold and set."""
    plain = results.plain_metrics(experiment.split, experiment.bins)
    trust = results.trust_metrics(experiment)
    shown = [plain["war"], plain["uar"], plain["ece"]]
    keys = {
        "ece_calibrated": experiment.calibrated,
        "aurc": True,
        "risk_at_80": True,
        "coverage": experiment.sets is not None,
        "answered": experiment.abstains.any(),
    }
    return {
        "plain": plain,
        "trust": trust,
        "headline": shown + [trust[key] for key, there in keys.items() if there],
        "by_class": results.by_class(experiment.split),
        "by_fold": results.by_fold(experiment),
        "sets": results.by_set(experiment, trust["coverage"]),
    }


def _comparison(experiment: Experiment, other: Experiment) -> dict[str, Any]:
    """A comparison, with the scales of its small charts by unit."""
    found = results.compare(experiment, other)
    scales: dict[str, tuple[float, float]] = {}
    for pair in found.pairs:
        ends = (pair.difference.low, pair.difference.high, pair.difference.value)
        most = max(abs(end) for end in ends if end is not None)
        unit = pair.difference.unit
        wide = max(most * 1.1, scales.get(unit, (0.0, 1e-9))[1])
        scales[unit] = (-wide, wide)
    return {"found": found, "scales": scales}


# Confidence and error


def _calibration(experiment: Experiment) -> dict[str, Any]:
    """Reliability diagrams and risk by coverage, before and after calibration."""
    before, after = experiment.split.probabilities, experiment.probabilities
    diagrams = [_reliability(experiment, "reliability-before", "Before calibration", before)]
    risks = {"before": before, "after": after} if experiment.calibrated else {"": before}
    if experiment.calibrated:
        diagrams.append(_reliability(experiment, "reliability-after", "After calibration", after))
    wrong = after.argmax(axis=1) != experiment.split.label
    answered, mark = ~experiment.abstains, None
    if answered.any() and not answered.all():
        mark = (100 * float(answered.mean()), 100 * float(wrong[answered].mean()), "decisions")
    curves = {name: _risk(p, experiment) for name, p in risks.items()}
    return {"reliability": diagrams, "risk": _risks("risk", curves, mark)}


def _together(experiment: Experiment, others: Sequence[Experiment]) -> dict[str, Any]:
    """Curves of all experiments in one chart, and their reliability diagrams on one scale."""
    every = [experiment, *others]
    return {
        "risk": _risks("risk-all", {one.name: _risk(one.probabilities, one) for one in every}),
        "reliability": [
            _reliability(
                one,
                f"reliability-of-{i}",
                f"{one.name}{', calibrated' if one.calibrated else ''}",
                one.probabilities,
            )
            for i, one in enumerate(every)
        ],
    }


def _reliability(experiment: Experiment, name: str, title: str, p: Floats) -> dict[str, Any]:
    """A reliability diagram of probabilities [n, K], with its ECE."""
    label, bins = experiment.split.label, experiment.bins
    rows = reliability(p, label, bins)
    told = "; ".join(f"confidence {c:.2f}, accuracy {a:.2f}, {n} clips" for c, a, n in rows)
    chart = inline(reliability_column(p, label, bins), name, title, f"By bin: {told}.")
    return {"title": title, "chart": chart, "ece": results.Metric("ECE", ece(p, label, bins))}


def _risk(p: Floats, experiment: Experiment) -> tuple[Floats, Floats]:
    """Coverage and risk in percent, of probabilities [n, K]."""
    coverage, risk = risk_coverage(p.max(axis=1), p.argmax(axis=1) != experiment.split.label)
    return 100 * coverage, 100 * risk


def _risks(
    name: str,
    curves: Mapping[str, tuple[Floats, Floats]],
    mark: tuple[float, float, str] | None = None,
) -> Markup:
    surest = 100 * COVERAGE_SHOWN
    told = "; ".join(
        f"{title or 'error'}: {risk[-1]:.1f} % of all clips, "
        f"{np.interp(surest, coverage, risk):.1f} % of the {surest:.0f} % surest"
        for title, (coverage, risk) in curves.items()
    )
    x_label = "clips answered, surest first (%)"
    figure = curves_column(curves, x_label, "error (%)", x_range=(0, 100), mark=mark)
    return inline(figure, name, "Error by coverage", f"Share of errors: {told}.")


# Embedding and training


def _embedding(experiment: Experiment) -> dict[str, Any]:
    """The t-SNE of the embedding, of at most EMBEDDED clips of the first fold.

    Of one fold, since each fold has a network of its own and its embedding other axes.
    """
    number, split = next(iter(experiment.folds)), experiment.first.split
    rows = choose_clips(split.label, EMBEDDED, seed=0)
    points, label = split.embedding[rows], split.label[rows]
    if len(rows) < 4 or not np.isfinite(points).all():
        return {"embedding": None}
    counts = np.bincount(label, minlength=len(split.classes)).tolist()
    told = ", ".join(f"{n} {name}" for name, n in zip(split.classes, counts, strict=True) if n)
    figure = embedding_column(tsne(points, 0), label, split.classes)
    title = f"Embedding of {len(rows)} test clips of fold {number}, by t-SNE"
    return {
        "embedding": {
            "fold": number,
            "clips": len(rows),
            "counts": counts,
            "silhouette": silhouette(points, label),
            "chart": inline(figure, "embedding", title, f"{len(label)} clips: {told}."),
        }
    }


_CURVES: Final = (
    ("Loss", "", {"loss": "total", "ce": "CE", "logit": "CAL", "feature": "FCL"}),
    (
        "Accuracy in training",
        "%",
        {
            "train_war": "train WAR",
            "train_uar": "train UAR",
            "select_war": "select WAR",
            "select_uar": "select UAR",
        },
    ),
    ("Learning rate", "", {"lr": ""}),
)
"""Title, unit and columns of the history of a training."""


def _history(experiment: Experiment) -> dict[int, list[Markup]]:
    """The training curves of the first fold that has some."""
    for number, fold in experiment.folds.items():
        if history := fold.info.get("history"):
            charts = [_curves(history, *panel) for panel in _CURVES]
            return {number: [chart for chart in charts if chart]}
    return {}


def _curves(
    history: Sequence[Mapping[str, float]], title: str, unit: str, columns: Mapping[str, str]
) -> Markup | None:
    epochs = np.arange(1.0, len(history) + 1)
    curves = {
        name: (epochs, np.array([row[key] for row in history], dtype=np.float64))
        for key, name in columns.items()
        if all(key in row for row in history)
    }
    if not curves:
        return None
    label = f"{title.lower()} ({unit})" if unit else title.lower()
    figure = curves_column(curves, "epoch", label, y_top=100 if unit else None)
    told = "; ".join(f"{k or title} from {y[0]:.4g} to {y[-1]:.4g}" for k, (_, y) in curves.items())
    name = f"history-{title.split()[0].lower()}"
    return inline(figure, name, title, f"Over {len(epochs)} epochs: {told}.")


# Clips: those that the model is most sure about and wrong, and those that it is least sure about


class Case(NamedTuple):
    """One clip that is shown."""

    row: int
    """Position in the experiment's split."""
    clip: str
    label: str
    decision: str | None
    """The class that is decided for; None: the model abstains."""
    likeliest: str
    sure: float
    """Highest probability, in percent."""


def choose(experiment: Experiment, count: int) -> tuple[list[Case], list[Case]]:
    """Find `count` clips, or fewer, that are wrong most surely, and as many doubtful ones.

    Confidence is the highest probability, calibrated where there is a calibration.

    Returns:
        The wrong ones, the surest first; the doubtful ones, the least sure first. No clip is in
        both.
    """
    split, p = experiment.split, experiment.probabilities
    confidence, said = p.max(axis=1), p.argmax(axis=1)
    order = np.argsort(-confidence, kind="stable")
    worst = [int(i) for i in order if said[i] != split.label[i]][:count]
    doubtful = [int(i) for i in order[::-1] if i not in worst][:count]

    def case(row: int) -> Case:
        likeliest = split.classes[said[row]]
        decision = None if experiment.abstains[row] else likeliest
        label = split.classes[split.label[row]]
        return Case(row, split.clip[row], label, decision, likeliest, 100 * float(confidence[row]))

    return [case(row) for row in worst], [case(row) for row in doubtful]


def _clips(experiment: Experiment, given: Sources) -> dict[str, Any]:
    """The clips that are shown, with faces where they may be and are at hand."""
    data, frames = results.data(given), experiment.frames
    groups = choose(experiment, CASES)
    strips = {}
    if given.faces and data.folder is not None and frames in (None, data.folder.frames):
        strips = read_strips(data.folder, [case.clip for group in groups for case in group])
    titles = ("Most confident and wrong", "Most doubtful")
    return {
        "data": data,
        "frames": data.folder.frames if data.folder else frames,
        "side": SIDE,
        "cases": [
            (title, [_case(experiment, case, strips.get(case.clip)) for case in group])
            for title, group in zip(titles, groups, strict=True)
        ],
    }


def _case(experiment: Experiment, case: Case, strip: str | None) -> dict[str, Any]:
    """What the page shows of a clip."""
    sets, classes, chances = experiment.sets, experiment.classes, experiment.probabilities[case.row]
    inside = np.ones(len(classes), np.bool_) if sets is None else sets[case.row]
    bars = chances_column(chances, classes, classes.index(case.label), inside, most=_BARS)
    likeliest = np.argsort(-chances, kind="stable")[:_BARS]
    told = ", ".join(f"{classes[k]} {100 * chances[k]:.0f} %" for k in likeliest)
    return {
        "about": case,
        "fold": int(experiment.fold_of[case.row]),
        "strip": strip,
        "attention": _attention(experiment, case.row),
        "bars": inline(bars, f"chances-{case.row}", "Probabilities", told, class_="bars"),
        "set": None if sets is None else [classes[k] for k in np.flatnonzero(inside)],
    }


def _attention(experiment: Experiment, row: int) -> Markup | None:
    """Windows under their frames; None for a network whose attention is not over such windows."""
    weights, network, frames = (
        experiment.split.attention[row],
        experiment.network,
        experiment.frames,
    )
    window, stride = network.get("window"), network.get("stride")
    if network.get("name") != "safe" or not (isinstance(window, int) and isinstance(stride, int)):
        return None
    if frames is None or stride < 1 or (len(weights) - 1) * stride + window > frames:
        return None
    told = ", ".join(
        f"frames {w * stride + 1} to {w * stride + window}: {100 * weight:.0f} %"
        for w, weight in enumerate(weights)
    )
    figure = windows_strip(weights, window, stride, frames)
    return inline(figure, f"attention-{row}", "Attention over windows", told, class_="attention")


def read_strips(folder: ShardFolder, clips: Sequence[str]) -> dict[str, str]:
    """Read the faces of clips, checked as a training reads them: clip to a picture as data: URI.

    A clip that is not in the shards any more, or cannot be read, is left out. Faces are biometric
    data: a page with them is to be kept as the clips are.
    """
    found = {}
    reader = ClipReader(folder)
    size = folder.face_size
    faces = np.empty((1, folder.frames, size, size, 3), dtype=np.uint8)
    try:
        for clip in clips:
            rows = np.flatnonzero(folder.clip == clip)
            if not len(rows):
                continue
            try:
                reader.read(rows, faces)
            except DataError:
                continue
            found[clip] = _data_uri(faces[0])
    finally:
        reader.close()
    return found


def _data_uri(faces: NDArray[np.uint8]) -> str:
    """Put faces uint8 [T, S, S, 3] side by side, SIDE pixels each, as a JPEG."""
    import cv2  # here: a page without faces needs it not

    small = [cv2.resize(face, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for face in faces]
    strip = np.ascontiguousarray(np.concatenate(small, axis=1))
    jpeg = simplejpeg.encode_jpeg(strip, QUALITY, "RGB", "420", fastdct=False)
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
