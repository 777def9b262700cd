"""Do the figures show what the predictions say, in print size, with the same bytes every time?"""

import io
import itertools
import warnings
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from safe.errors import DataError
from safe.evaluation.compare import Estimate
from safe.evaluation.metrics import softmax
from safe.evaluation.predictions import Split, pool
from safe.report import canvas
from safe.report import contact as cases
from safe.report import pictures as confusion
from safe.report import pictures as embedding
from safe.report import pictures as reliability
from safe.report import tables as calibration
from safe.report import tables as rows
from safe.taxonomy import BASIC, Classes


def make_split(
    seed: int = 0,
    n: int = 90,
    *,
    skill: float = 2.0,
    sharp: float = 1.5,
    present: int = 100,
    classes: Classes = BASIC,
    model: int = 0,
) -> Split:
    """Made-up predictions: `seed` says which clips, `model` what is said about them."""
    rng = np.random.default_rng(seed)
    shares = np.resize([0.21, 0.16, 0.22, 0.19, 0.12, 0.02, 0.08], len(classes))[:present]
    label = rng.choice(len(shares), n, p=shares / shares.sum())
    rng = np.random.default_rng((seed, model))
    k = len(classes)
    logits = sharp * (rng.normal(size=(n, k)) + skill * np.eye(k)[label])
    centres = np.random.default_rng(5).normal(size=(k, 16))
    features = skill * centres[label] + rng.normal(scale=1.5, size=(n, 16))
    return Split(
        clip=tuple(f"s{seed}-{i:05d}" for i in range(n)),
        label=label,
        classes=classes,
        logits=logits,
        embedding=features,
        attention=softmax(rng.normal(size=(n, 7))),
    )


def make_models(n: int = 90) -> dict[str, Split]:
    return {
        "baseline": make_split(n=n, skill=1.2, sharp=2.5, model=1),
        "SAFE": make_split(n=n, skill=2.2, sharp=1.2, model=2),
    }


def make_curves(models=("baseline", "SAFE", "top-2"), seeds=3, epochs=20):
    """A curve falls to a level of its model; three metrics; one number a seed and epoch."""
    rng = np.random.default_rng(1)
    level = dict(zip(models, (1.0, 0.7, 0.85), strict=False))
    falling = 1 + 2 * np.exp(-np.arange(epochs) / 5)
    return {
        name: {
            metric: (level[name] * falling * rng.lognormal(0, 0.06, size=(seeds, epochs))).tolist()
            for metric in calibration.METRICS
        }
        for name in models
    }


def make_strips(
    split: Split, chosen: list[int], side: int = 48, frames: int = 16
) -> dict[str, np.ndarray]:
    """A disc that darkens from frame to frame, uint8 [T, S, S, 3]."""
    y, x = np.mgrid[:side, :side] / side - 0.5
    strips = {}
    for row in chosen:
        tint = np.random.default_rng(row).uniform(0.4, 1, 3)
        level = np.linspace(1, 0.4, frames)[:, None, None, None] * tint
        faces = np.where((x**2 + y**2 < 0.16)[None, :, :, None], level, 0.15)
        strips[split.clip[row]] = (255 * faces).astype(np.uint8)
    return strips


def estimate(mean: float, paper: float | None = None, seed: int = 0) -> Estimate:
    values = mean + np.random.default_rng(seed).normal(scale=0.7, size=3)
    return Estimate(tuple(values), float(values.min() - 1), float(values.max() + 1), paper)


MISSING = Estimate((), float("nan"), float("nan"), None)


def make_table() -> dict[str, dict[str, Estimate]]:
    names = ("baseline", "TAM", "S2AM2", "ACL", "TAM + S2AM2", "TAM + ACL", "S2AM2 + ACL", "SAFE")
    table = {
        name: {
            "war": estimate(67 + i, 68.32 + 0.7 * i, seed=i),
            "uar": estimate(56 + i, 58 + 0.8 * i, seed=i + 50),
        }
        for i, name in enumerate(names)
    }
    table["ACL"] = {"war": replace(MISSING, paper=69.7), "uar": MISSING}
    table["TAM + ACL"] = {"war": table["TAM + ACL"]["war"]}
    return table


def make_sweep() -> dict[str, dict[float, dict[str, Estimate]]]:
    def along(values):
        return {
            v: {"war": estimate(70 + i - 0.4 * i * i, 71.0 + 0.1 * i, seed=i)}
            for i, v in enumerate(values)
        }

    axes = {
        "ratio": along((0.1, 0.3, 0.5, 0.7, 0.9)),
        "mask ratio": along((0.1, 0.3, 0.5, 0.7, 0.9)),
        "block (pixels)": along((8, 16, 28, 56)),
    }
    axes["mask ratio"][0.7] = {"war": MISSING}
    return axes


def make_figures(n: int = 90) -> dict[str, tuple]:
    """Every figure: name to (module, name in it, arguments, keywords, width in mm)."""
    models = make_models(n)
    a, b = models.values()
    chosen = cases.choose_cases(a, b, 4)
    strips = make_strips(a, chosen)
    strips.pop(a.clip[chosen[-1]])
    folds = {f"fold {k}": make_split(seed=k, n=n) for k in range(1, 5)}
    folds["fold 5"] = make_split(seed=5, n=n, present=6)
    clips = (models, chosen, strips)
    one, two = canvas.ONE_COLUMN, canvas.TWO_COLUMNS
    return {
        "reliability": (reliability, "reliability", (models, 15), {}, two),
        "reliability_one": (reliability, "reliability", ({"SAFE": b}, 15), {}, one),
        "confusion": (confusion, "confusion", (folds,), {}, two),
        "confusion_one": (confusion, "confusion", ({"fold 1": a},), {}, one),
        "embedding": (embedding, "embedding", (models,), {}, two),
        "embedding_one": (embedding, "embedding", ({"SAFE": b},), {"most": 40}, one),
        "calibration": (calibration, "calibration", (make_curves(), "baseline"), {}, two),
        "cases": (cases, "cases", clips, {"window": 4, "stride": 2, "frames": 16}, two),
        "rows": (rows, "rows", (make_table(),), {}, two),
        "rows_one": (rows, "rows", ({"SAFE": {"war": estimate(72, 73.42)}},), {}, one),
        "sweep": (rows, "sweep", (make_sweep(), "war"), {}, two),
    }


METRICS = make_figures()


def draw(name: str, out: Path, figures: dict[str, tuple] = METRICS) -> Path:
    module, stem, arguments, keywords, _ = figures[name]
    canvas.save(getattr(module, f"{stem}_figure")(*arguments, **keywords), out)
    return out


def build(name: str) -> Figure:
    module, stem, arguments, keywords, _ = METRICS[name]
    return getattr(module, f"{stem}_figure")(*arguments, **keywords)


def words(artist) -> list[str]:
    """All texts in a figure or axes that are seen."""
    found = artist.findobj(lambda each: isinstance(each, Text) and each.get_visible())
    return [each.get_text() for each in found if each.get_text().strip()]


@pytest.mark.parametrize("name", METRICS)
def test_a_png_is_a_column_wide_at_200_dpi_readable_and_the_same_twice(name, tmp_path):
    figure = build(name)
    canvas.save(figure, tmp_path / "a.png")
    first = (tmp_path / "a.png").read_bytes()
    if not name.endswith("_one"):
        assert first == draw(name, tmp_path / "b.png").read_bytes()
    with Image.open(io.BytesIO(first)) as image:
        assert image.width == int(METRICS[name][4] / 25.4 * 200)
        assert image.info["dpi"] == pytest.approx((200, 200), abs=0.1)
        pixels = np.asarray(image.convert("L"))
    assert (pixels == 255).mean() > 0.1
    assert (pixels < 128).any()
    texts = [each for each in figure.findobj(Text) if each.get_visible() and each.get_text()]
    assert len(texts) > 5
    assert min(each.get_fontsize() for each in texts) >= 7
    assert {each.get_fontname() for each in texts} == {"DejaVu Sans"}
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert min(drawn.x0, drawn.y0, width - drawn.x1, height - drawn.y1) > -0.01, "cut off"


@pytest.mark.parametrize("suffix", [".svg", ".pdf"])
def test_vector_files_hold_no_date_and_are_the_same_twice(suffix, tmp_path):
    first, second = (draw("reliability_one", tmp_path / f"{x}{suffix}").read_bytes() for x in "ab")
    assert first == second
    assert first.startswith({".svg": b"<?xml", ".pdf": b"%PDF"}[suffix])
    assert b"CreationDate" not in first
    assert b"<dc:date>" not in first


def test_the_settings_of_the_user_change_nothing_and_stay(tmp_path):
    plain = draw("rows_one", tmp_path / "a.png").read_bytes()
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "lines.linewidth": 9}):
        assert draw("rows_one", tmp_path / "b.png").read_bytes() == plain
        assert matplotlib.rcParams["font.size"] == 20


def test_another_suffix_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(DataError, match=r"x\.jpg: the suffix must be one of \.png, \.svg, \.pdf"):
        draw("rows_one", tmp_path / "x.jpg")
    assert not list(tmp_path.iterdir())


def test_models_of_other_clips_or_none_or_with_nan_are_refused():
    a, other = make_split(), make_split(seed=1)
    turned = replace(a, clip=a.clip[::-1])
    relabelled = replace(a, label=(a.label + 1) % 7)
    for b in (other, turned, relabelled):
        pair = {"a": a, "b": b}
        for refused in (
            lambda pair=pair: reliability.reliability_figure(pair, 15),
            lambda pair=pair: embedding.embedding_figure(pair),
            lambda b=b: cases.choose_cases(a, b, 2),
            lambda pair=pair: cases.cases_figure(pair, [0], {}, window=4, stride=2, frames=16),
        ):
            with pytest.raises(DataError, match="do not hold the same clips"):
                refused()
    with pytest.raises(DataError, match="of different classes"):
        reliability.reliability_figure({"a": a, "b": make_split(classes=BASIC[::-1])}, 15)
    with pytest.raises(DataError, match="no model"):
        reliability.reliability_figure({}, 15)
    with pytest.raises(DataError, match="no part"):
        confusion.confusion_figure({})
    with pytest.raises(DataError, match="'a' are not finite"):
        embedding.embedding_figure({"a": replace(a, embedding=a.embedding * np.nan)})


def test_reliability_bars_are_those_of_a_loop_over_clips():
    bins = 10
    models = make_models()
    figure = reliability.reliability_figure(models, bins)
    diagrams, histograms = figure.axes[:2], figure.axes[2:4]
    for split, above, below in zip(models.values(), diagrams, histograms, strict=True):
        sure = [[] for _ in range(bins)]
        right = [[] for _ in range(bins)]
        for chance, label in zip(split.probabilities, split.label, strict=True):
            m = next(m for m in range(bins) if chance.max() <= (m + 1) / bins)
            sure[m].append(chance.max())
            right[m].append(chance.argmax() == label)
        accuracy, *gaps = above.containers
        drawn = {round(bar.get_center()[0] * bins - 0.5): bar for bar in accuracy}
        assert sorted(drawn) == [m for m in range(bins) if sure[m]]
        for m, bar in drawn.items():
            assert bar.get_height() == pytest.approx(np.mean(right[m]))
        gap = {round(b.get_center()[0] * bins - 0.5): b for part in gaps for b in part}
        for m, bar in gap.items():
            assert bar.get_y() == pytest.approx(np.mean(right[m]))
            assert bar.get_y() + bar.get_height() == pytest.approx(np.mean(sure[m]))
        assert len(gap) > 3
        counts = [bar.get_height() * len(split.label) / 100 for bar in below.containers[0]]
        assert counts == pytest.approx([len(each) for each in sure if each])
        both = list(zip(right, sure, strict=True))
        error = sum(abs(np.mean(r) - np.mean(s)) * len(s) for r, s in both if s)
        assert f"ECE {error / len(split.label):.3f}" in above.get_title()


def test_confusion_cells_are_percent_of_the_row_and_the_last_matrix_pools_the_folds():
    folds = {"fold 1": make_split(seed=1), "fold 5": make_split(seed=5, present=6)}
    figure = confusion.confusion_figure(folds)
    parts = [*folds.values(), pool(list(folds.values()))]
    assert [axes.get_title().split(":")[0] for axes in figure.axes] == [*folds, "pooled"]
    for axes, part in zip(figure.axes, parts, strict=True):
        cells = {each.get_position(): each.get_text() for each in axes.texts}
        for true, predicted in itertools.product(range(7), range(7)):
            row = part.logits.argmax(axis=1)[part.label == true]
            cell = cells.get((predicted, true))
            assert cell == (f"{100 * np.mean(row == predicted):.0f}" if len(row) else None)
            assert f"n {len(row)}" in words(axes)
        present = np.unique(part.label)
        hit = part.logits.argmax(axis=1) == part.label
        recall = [hit[part.label == k].mean() for k in present]
        over = "" if len(present) == 7 else f" over {len(present)} of 7 classes"
        expected = f"WAR {100 * hit.mean():.2f}, UAR{over} {100 * np.mean(recall):.2f}"
        assert axes.get_title().replace("\n", " ").endswith(expected)
    assert 6 not in parts[1].label  # a class without clips was among them
    assert set(BASIC) <= set(words(figure))


def test_clips_are_drawn_in_the_share_of_their_class():
    label = np.repeat(np.arange(7), (400, 300, 200, 60, 30, 9, 1))
    rows_ = embedding.choose_clips(label, 100, seed=3)
    assert len(set(rows_.tolist())) == 100
    drawn = np.bincount(label[rows_], minlength=7)
    assert (np.abs(drawn - np.bincount(label) / 10) <= 1).all()
    assert drawn.min() == 1
    assert (rows_ == embedding.choose_clips(label, 100, seed=3)).all()
    assert (rows_ != embedding.choose_clips(label, 100, seed=4)).any()
    assert embedding.choose_clips(label, 5000, seed=0).tolist() == list(range(1000))


def slow_silhouette(points: np.ndarray, label: np.ndarray) -> float:
    scores = []
    for i, point in enumerate(points):
        far = np.sqrt(((points - point) ** 2).sum(axis=1))
        own = label == label[i]
        own[i] = False
        if not own.any():
            scores.append(0.0)
            continue
        a = far[own].mean()
        b = min(far[label == k].mean() for k in set(label.tolist()) - {label[i]})
        scores.append((b - a) / max(a, b))
    return float(np.mean(scores))


def test_embedding_titles_give_the_silhouette_in_the_embedding_and_the_clips_are_the_same():
    models = make_models()
    figure = embedding.embedding_figure(models, most=60)
    chosen = embedding.choose_clips(models["SAFE"].label, 60, seed=0)
    label = models["SAFE"].label[chosen]
    for axes, (name, split) in zip(figure.axes, models.items(), strict=True):
        score = slow_silhouette(split.embedding[chosen], label)
        assert axes.get_title() == f"{name}: silhouette {score:.3f}"
        drawn = [len(points.get_offsets()) for points in axes.collections]
        assert drawn == np.bincount(label, minlength=7).tolist()
    legend = figure.legends[0].get_texts()
    assert [each.get_text() for each in legend] == [
        f"{word} ({n})" for word, n in zip(BASIC, drawn, strict=True)
    ]
    looks = {(points.get_facecolor()[0].tobytes()) for points in figure.axes[0].collections}
    assert len(looks) == 7


def test_embedding_of_one_class_has_no_silhouette_and_of_three_clips_is_refused():
    split = make_split(n=12, present=1)
    assert "silhouette not defined" in embedding.embedding_figure({"a": split}).axes[0].get_title()
    with pytest.raises(DataError, match="3 clips are too few"):
        embedding.embedding_figure({"a": split}, most=3)


def test_ratios_divide_seed_by_seed_as_far_as_both_reach():
    nan = float("nan")
    found = calibration.ratios([[1, 2, 3], [4, nan, 6], [7, 7, 7]], [[2, 2], [0, 8]])
    assert found == pytest.approx(np.array([[0.5, 1.0], [nan, nan]]), nan_ok=True)
    assert calibration.ratios([], [[1, 2]]).size == 0


def test_calibration_lines_are_means_of_ratios_and_missing_metrics_are_said():
    curves = make_curves()
    curves["SAFE"]["nll"][1][4] = float("nan")
    del curves["top-2"]["brier"]
    figure = calibration.calibration_figure(curves, "baseline")
    for axes, metric in zip(figure.axes, calibration.METRICS, strict=True):
        assert axes.get_yscale() == "log"
        line = next(each for each in axes.lines if each.get_label() == "SAFE / baseline")
        pairs = list(zip(curves["SAFE"][metric], curves["baseline"][metric], strict=True))
        for epoch, drawn in zip(range(20), line.get_ydata(), strict=True):
            each = [top[epoch] / bottom[epoch] for top, bottom in pairs]
            kept = [ratio for ratio in each if ratio == ratio]
            assert len(kept) == (2 if (metric, epoch) == ("nll", 4) else 3)
            assert drawn == pytest.approx(sum(kept) / len(kept))
        assert ("top-2: missing" in words(axes)) == (metric == "brier")
        low, high = axes.get_ylim()
        assert low < 0.7 < 1 < high
    with pytest.raises(DataError, match="'top-9' and a model to compare"):
        calibration.calibration_figure(curves, "top-9")


def test_cases_are_those_of_a_slow_loop():
    a, b = make_models().values()
    ahead = []
    for i, true in enumerate(a.label):
        of_a, of_b = (np.exp(x.logits[i]) / np.exp(x.logits[i]).sum() for x in (a, b))
        ahead.append((of_b[true] - of_a[true], i))
    best = [i for _, i in sorted(ahead, reverse=True)]
    assert cases.choose_cases(a, b, 7) == [*best[:4], *best[::-1][:3]]
    assert cases.choose_cases(a, b, 0) == []
    assert cases.choose_cases(a, a, 6) == []
    assert len(cases.choose_cases(a, b, 10_000)) == len(a.label)


def test_a_case_shows_the_frames_of_each_window_and_both_probabilities():
    (models, chosen, strips), keywords = METRICS["cases"][2:4]
    figure = cases.cases_figure(models, chosen, strips, **keywords)
    a, b = models.values()
    for row, start in zip(chosen, range(0, 16, 4), strict=True):
        faces, *windows, bars = figure.axes[start : start + 4]
        clip = a.clip[row]
        assert faces.get_title(loc="left").startswith(f"{clip}, {BASIC[a.label[row]]}.")
        assert ("faces missing" in words(faces)) == (clip not in strips)
        if clip in strips:
            assert faces.images[0].get_array().shape == (48, 16 * 48, 3)
        for panel, split in zip(windows, (a, b), strict=True):
            boxes = [(p.get_x(), p.get_x() + p.get_width()) for p in panel.patches]
            assert boxes == [(2 * w, 2 * w + 4) for w in range(7)]
            assert panel.get_xlim() == faces.get_xlim() == (0, 16)
            edges = [panel.get_position().x0, panel.get_position().x1]
            assert edges == pytest.approx([faces.get_position().x0, faces.get_position().x1])
            said = [f"{100 * weight:.0f}" for weight in split.attention[row]]
            assert [word for word in words(panel) if word.isdigit()] == said
            lanes = [(box, p.get_y()) for box, p in zip(boxes, panel.patches, strict=True)]
            for (one, y), (two, z) in itertools.combinations(lanes, 2):
                assert y != z or one[1] <= two[0] or two[1] <= one[0], "windows overlap"
        for container, split in zip(bars.containers, (a, b), strict=True):
            chance = np.exp(split.logits[row]) / np.exp(split.logits[row]).sum()
            assert [bar.get_width() for bar in container] == pytest.approx(chance)
        bold = [x.get_text() for x in bars.get_yticklabels() if x.get_fontweight() == "bold"]
        assert bold == [BASIC[a.label[row]]]


def test_windows_that_do_not_fit_and_no_cases_are_refused():
    models, chosen, strips = METRICS["cases"][2]
    with pytest.raises(DataError, match="7 windows of 4 frames, 3 apart"):
        cases.cases_figure(models, chosen, strips, window=4, stride=3, frames=16)
    with pytest.raises(DataError, match="never differ"):
        cases.cases_figure(models, [], strips, window=4, stride=2, frames=16)
    whole = {
        name: replace(split, attention=np.ones((len(split.label), 1)))
        for name, split in models.items()
    }
    figure = cases.cases_figure(whole, [0], {}, window=16, stride=16, frames=16)
    assert [patch.get_width() for patch in figure.axes[1].patches] == [16]


@pytest.mark.parametrize(("frames", "stride"), [(8, 1), (64, 10)])
def test_cases_of_so_many_frames(frames, stride, tmp_path):
    models, chosen, _ = METRICS["cases"][2]
    strips = make_strips(models["SAFE"], chosen[:1], frames=frames)
    figure = cases.cases_figure(models, chosen[:2], strips, window=2, stride=stride, frames=frames)
    faces, windows, _, _, missing, *_ = figure.axes
    assert faces.images[0].get_array().shape == (48, frames * 48, 3)
    assert faces.get_xlim() == windows.get_xlim() == missing.get_xlim() == (0, frames)
    assert [p.get_x() for p in windows.patches] == [stride * w for w in range(7)]
    assert "faces missing" in words(missing)
    canvas.save(figure, tmp_path / "a.png")
    with pytest.raises(DataError, match=f"do not fit into {6 * stride + 1} frames"):
        cases.cases_figure(models, chosen, strips, window=2, stride=stride, frames=6 * stride + 1)


def marks(axes, marker: str) -> list[tuple[float, float]]:
    """Where the points with this marker are."""
    lines = [line for line in axes.lines if line.get_marker() == marker]
    return [point for line in lines for point in zip(*line.get_data(), strict=True)]


def test_rows_mark_mean_interval_seeds_and_paper():
    table = make_table()
    war, uar = rows.rows_figure(table).axes
    assert (war.get_xlabel(), uar.get_xlabel()) == ("WAR (%)", "UAR (%)")
    assert [label.get_text() for label in war.get_yticklabels()] == list(table)
    for axes, figure in ((war, "war"), (uar, "uar")):
        there = [(i, row[figure]) for i, row in enumerate(table.values()) if figure in row]
        seen = [(i, each) for i, each in there if each.values]
        assert marks(axes, "o") == [(pytest.approx(np.mean(e.values)), i) for i, e in seen]
        assert marks(axes, "|") == [(value, i) for i, e in seen for value in e.values]
        assert marks(axes, "D") == [(e.paper, i) for i, e in there if e.paper is not None]
        spans = [tuple(x.get_xdata()) for x in axes.lines if x.get_linewidth() == 2.4]
        assert spans == [(e.low, e.high) for _, e in seen]
        assert words(axes).count("missing") == len(table) - len(seen)


def test_a_table_without_any_run_is_drawn_and_one_without_rows_refused(tmp_path):
    out = tmp_path / "new" / "rows.png"
    canvas.save(rows.rows_figure({"baseline": {"war": MISSING}, "SAFE": {"war": MISSING}}), out)
    assert out.stat().st_size > 1000
    canvas.save(rows.sweep_figure({"ratio": {0.5: {"war": MISSING}}}, "war"), out)
    for table in ({}, {"SAFE": {}}):
        with pytest.raises(DataError, match="no row with a figure"):
            rows.rows_figure(table)
    with pytest.raises(DataError, match="without values"):
        rows.sweep_figure({"ratio": {}}, "war")


def test_a_sweep_has_a_gap_where_a_value_is_missing():
    sweep = make_sweep()
    figure = rows.sweep_figure(sweep, "war")
    for axes, (name, values) in zip(figure.axes, sweep.items(), strict=True):
        assert axes.get_xlabel() == name
        assert [label.get_text() for label in axes.get_xticklabels()] == [f"{v:g}" for v in values]
        expected = [
            np.mean(row["war"].values) if row["war"].values else float("nan")
            for row in values.values()
        ]
        assert axes.lines[0].get_ydata() == pytest.approx(expected, nan_ok=True)
        assert words(axes).count("missing") == int(np.isnan(expected).sum())
        assert marks(axes, "D") == [
            (value, row["war"].paper) for value, row in values.items() if row["war"].paper
        ]
    assert words(figure).count("missing") == 1


@pytest.mark.parametrize(
    "classes",
    [
        ("smile", "no smile"),
        (*BASIC[::-1], "contempt"),
        tuple(f"c{i}" for i in range(100)),
        (*(f"c{i}" for i in range(93)), *BASIC),
    ],
    ids=len,
)
def test_no_two_classes_look_the_same_and_the_basic_ones_as_always(classes):
    looks, areas = canvas.class_looks(classes), canvas.class_areas(classes)
    assert list(looks) == list(areas) == list(classes)
    assert len(set(looks.values())) == len(classes)
    assert len({tuple(area.values()) for area in areas.values()}) == len(classes)
    basic = canvas.class_looks(BASIC)
    assert [looks[name] for name in classes if name in BASIC] == [
        basic[name] for name in classes if name in BASIC
    ]
    others = tuple(name for name in classes if name not in BASIC)
    assert [looks[name] for name in others] == list(canvas.class_looks(others).values())


LOOSE = ("very happy + loud", "笑顔", "überrascht")


def points_a_class(figure: Figure, axes) -> float:
    """How high a row of a matrix is, once the figure is saved; its names are 7 points high."""
    return axes.get_position().height * figure.get_figheight() * 72 / len(axes.get_yticks())


@pytest.mark.parametrize("count", [2, 11])
def test_a_confusion_matrix_of_so_many_classes_says_which_lack_clips(count, tmp_path):
    classes = (*LOOSE, *(f"class {i}" for i in range(count)))[:count]
    split = make_split(n=300, classes=classes, present=count - 1 if count > 2 else 2)
    figure = confusion.confusion_figure({"fold 1": split})
    (axes,) = figure.axes
    there = len(np.unique(split.label))
    told = "UAR " if there == count else f"UAR over {there} of {count} classes "
    assert told in axes.get_title()
    assert set(classes) <= set(words(figure))
    assert len([word for word in words(axes) if word.isdigit()]) == count * there
    canvas.save(figure, tmp_path / "a.png")
    assert points_a_class(figure, axes) > 7


def test_of_many_classes_one_matrix_without_percentages_is_drawn(tmp_path):
    classes = (*BASIC, *LOOSE, *(f"class {i}" for i in range(90)))
    folds = {f"fold {k}": make_split(seed=k, n=600, classes=classes) for k in (1, 2)}
    figure = confusion.confusion_figure(folds)
    (axes,) = figure.axes
    assert axes.get_title().startswith("pooled: ")
    assert not [word for word in words(axes) if word.isdigit()]
    assert set(classes) <= set(words(figure))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of letters that are not there
        canvas.save(figure, tmp_path / "a.png")
    assert points_a_class(figure, axes) > 7


@pytest.mark.parametrize("count", [2, 30])
def test_embedding_and_cases_of_other_classes(count, tmp_path):
    classes = (*LOOSE, *BASIC, *(f"class {i}" for i in range(count)))[:count]
    a, b = (make_split(n=120, classes=classes, model=model) for model in (1, 2))
    figure = embedding.embedding_figure({"a": a, "b": b}, most=80)
    legend = figure.legends[0]
    assert [each.get_text().rpartition(" ")[0] for each in legend.get_texts()] == list(classes)
    canvas.save(figure, tmp_path / "a.png")
    figure.canvas.draw()
    box, whole = legend.get_window_extent(), figure.bbox
    assert 0 <= box.x0 < box.x1 <= whole.x1
    chosen = cases.choose_cases(a, b, 2)
    figure = cases.cases_figure({"a": a, "b": b}, chosen, {}, window=4, stride=2, frames=16)
    for row, bars in zip(chosen, figure.axes[3::4], strict=True):
        names = [label.get_text() for label in bars.get_yticklabels()]
        assert len(names) == min(count, 8)
        bold = [x.get_text() for x in bars.get_yticklabels() if x.get_fontweight() == "bold"]
        assert bold == [canvas.class_name(classes[a.label[row]], room=17)]
        shown = [k for k, n in enumerate(classes) if canvas.class_name(n, room=17) in names]
        for container, split in zip(bars.containers, (a, b), strict=True):
            drawn = [bar.get_width() for bar in container]
            assert drawn == pytest.approx(split.probabilities[row, shown])
            assert split.predicted[row] in shown
    told = f"bars: the 8 likeliest of {count} classes"
    assert any(told in word for word in words(figure)) == (count > 8)
