"""How do confidence and error become charts, of one experiment or of several on one scale?"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from safe.figures.canvas import SERIES
from safe.metrics import Floats, Ints, ece, reliability
from safe.report.charts import Line, lines_chart, reliability_chart
from safe.report.figure import Figure
from safe.report.gather import Experiment
from safe.selective import risk_coverage
from safe.trust import COVERAGE_SHOWN


def trust_charts(experiment: Experiment) -> dict[str, Any]:
    """Reliability before and after calibration, risk and coverage, prediction sets."""
    before, after = experiment.split.probabilities, experiment.probabilities
    stages = {"before": ("Before calibration", before)}
    if experiment.calibrated:
        stages["after"] = ("After calibration", after)
    risks = {"before": before, "after": after}
    if not experiment.calibrated:
        risks = {"error": before}
    return {
        "reliability": [_reliability(experiment, key, *stage) for key, stage in stages.items()],
        "risk": _risk("risk", experiment, risks, mark=True),
    }


def _reliability(experiment: Experiment, key: str, title: str, p: Floats) -> dict[str, Any]:
    """A reliability diagram with its ECE."""
    label, bins = experiment.split.label, experiment.bins
    rows = reliability(p, label, bins)
    chart = reliability_chart(f"reliability-{key}", title, rows, bins)
    return {"title": title, "chart": chart, "ece": Figure("ECE", ece(p, label, bins))}


def _risk(
    name: str, experiment: Experiment, series: dict[str, Floats], *, mark: bool = False
) -> Markup:
    """Risk-coverage curves of probabilities [n, K], and where the decisions of `experiment` lie."""
    label = experiment.split.label
    lines, marks = [], []
    for look, (title, p) in enumerate(series.items()):
        lines.append(_curve(title, p, label, look))
    answered = ~experiment.abstains
    if mark and answered.any() and not answered.all():
        wrong = experiment.probabilities.argmax(axis=1) != label
        point = (100 * float(answered.mean()), 100 * float(wrong[answered].mean()))
        marks.append((*point, "decisions"))
    return _risk_chart(name, lines, marks)


def _curve(title: str, p: Floats, label: Ints, look: int) -> Line:
    """A series of the risk-coverage chart, in percent, from probabilities [n, K]."""
    coverage, risk = risk_coverage(p.max(axis=1), p.argmax(axis=1) != label)
    return Line(title, (100 * coverage).tolist(), (100 * risk).tolist(), look)


def _risk_chart(
    name: str, lines: Sequence[Line], marks: Sequence[tuple[float, float, str]] = ()
) -> Markup:
    at = [
        f"{one.label}: {one.y[-1]:.1f} % of all clips, {np.interp(80, one.x, one.y):.1f} % of the "
        f"{100 * COVERAGE_SHOWN:.0f} % surest"
        for one in lines
    ]
    return lines_chart(
        name,
        "Error by coverage",
        f"Share of errors: {'; '.join(at)}.",
        lines,
        x_label="clips answered, surest first (%)",
        y_label="error (%)",
        x_range=(0, 100),
        marks=marks,
    )


def charts_together(experiment: Experiment, others: Sequence[Experiment]) -> dict[str, Any]:
    """Curves of all experiments in one chart, and their reliability diagrams on one scale."""
    if not others:
        return {}
    lines, diagrams = [], []
    for look, one in enumerate([experiment, *others]):
        p, label = one.probabilities, one.split.label
        lines.append(_curve(one.name[:18], p, label, look % len(SERIES)))
        title = f"{one.name}{', calibrated' if one.calibrated else ''}"
        diagrams.append(_reliability(one, f"of-{look}", title, p))
    return {"risk": _risk_chart("risk-all", lines), "reliability": diagrams}
