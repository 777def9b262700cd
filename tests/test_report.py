"""The page of an experiment: its figures, what is missing, hostile data, its form, the verb."""

import base64
import hashlib
import json
import re
import shutil
from functools import cache
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import simplejpeg
from markupsafe import Markup
from scipy.stats import binomtest
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    precision_score,
    recall_score,
)
from support import EVERY_CLASS, HOSTILE, NOON, ROOT, Page, read_experiment, write_fold, write_half

from cli.report import run_report
from safe.errors import ConfigError, DataError
from safe.evaluation.calibration import Calibration
from safe.report.canvas import add_panel, class_looks, sheet, styled
from safe.report.contact import shade, windows_strip
from safe.report.gather import Experiment, Sources
from safe.report.inline import colour_rules, inline
from safe.report.page import SIDE, _clips, choose, read_strips, render_page
from safe.report.results import (
    by_class,
    by_set,
    compare,
    differing,
    plain_metrics,
    trust_metrics,
)
from safe.sample import decode_strip
from safe.shards.folder import open_shards
from safe.taxonomy import BASIC


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project of two calibrated folds, with shards; not to be changed."""
    folder = tmp_path_factory.mktemp("report")
    write_fold(folder, 1)
    write_fold(folder, 2, n=50)
    write_half(folder, read_experiment(folder))
    (folder / "params.yaml").write_text(
        re.sub(r"folds: \[1\]", "folds: [1, 2]", (ROOT / "params.yaml").read_text())
    )
    return folder


@pytest.fixture(scope="module")
def experiment(root: Path) -> Experiment:
    return read_experiment(root)


@pytest.fixture(scope="module")
def html(root: Path, experiment: Experiment) -> str:
    """Return the page beside a hostile experiment of fewer clips and no calibration."""
    other = root / "other"
    write_fold(other, 1, skill=0.5, calibration=None, params={"train": {"lr": HOSTILE}})
    beside = read_experiment(other, HOSTILE, (1,))
    given = Sources(
        shards=root / "data/synthetic/shards",
        manifest=110,
        statuses={"ok": 107, "error": 3},
        reasons={HOSTILE: 3},
        defaults={"train": {"lr": 0.002, "epochs": 2}},
        about=[("machine", HOSTILE)],
        outs=[("runs", "0f" * 16, 12345)],
    )
    return render_page(experiment, [beside], given, now=NOON)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_figures_equal_those_of_scikit_learn(experiment):
    label, said = experiment.split.label, experiment.split.predicted
    figures = plain_metrics(experiment.split, experiment.bins)
    assert figures["war"].value == pytest.approx(100 * accuracy_score(label, said))
    assert figures["uar"].value == pytest.approx(100 * balanced_accuracy_score(label, said))
    rows = by_class(experiment.split)
    recalls = 100 * recall_score(label, said, average=None)
    precisions = 100 * precision_score(label, said, average=None)
    np.testing.assert_allclose([row.recall.value for row in rows], recalls)
    np.testing.assert_allclose([row.precision.value for row in rows], precisions)
    shares = 100 * confusion_matrix(label, said, normalize="true")
    cells = [[percent for _, percent in row.cells] for row in rows]
    np.testing.assert_allclose(cells, shares)
    for figure in (*figures.values(), *(row.recall for row in rows)):
        assert figure.low <= figure.value <= figure.high or figure.name == "ECE"


def test_wilsons_interval_is_the_textbook_one(experiment):
    for row in by_class(experiment.split):
        n, p, z = row.clips, row.recall.value / 100, 1.959964
        middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
        ends = [100 * (middle - half), 100 * (middle + half)]
        np.testing.assert_allclose([row.recall.low, row.recall.high], ends, rtol=1e-5, atol=1e-9)


def test_each_fold_is_read_by_its_own_calibration(tmp_path):
    sharp = Calibration(method="temperature", scale=(3.0,), level=0.8, cutoffs=(0.3,))
    write_fold(tmp_path, 1)
    write_fold(tmp_path, 2, calibration=sharp)
    both = read_experiment(tmp_path)
    holds, sizes, answered = [], [], []
    for number, calibration in ((1, EVERY_CLASS), (2, sharp)):
        split = read_experiment(tmp_path, folds=(number,)).split
        for logits, label in zip(split.logits, split.label, strict=True):
            odds = np.exp(logits * calibration.scale[0])
            p = odds / odds.sum()
            inside = [k for k in range(7) if p[k] >= np.resize(calibration.cutoffs, 7)[k]]
            holds.append(label in inside)
            sizes.append(len(inside))
            answered.append(p.max() >= calibration.threshold)
    figures = trust_metrics(both)
    assert figures["coverage"].value == pytest.approx(100 * np.mean(holds))
    assert figures["set_size"].value == pytest.approx(np.mean(sizes))
    assert figures["answered"].value == pytest.approx(100 * np.mean(answered))
    last = by_set(both, figures["coverage"])[-1]
    assert (last.name, last.clips, last.size) == ("all", 120, pytest.approx(np.mean(sizes)))


def test_a_comparison_pairs_the_clips_by_key(root, tmp_path):
    ours = read_experiment(root, folds=(1,))
    write_fold(tmp_path, 1, skill=0.5)
    place = tmp_path / "runs/synthetic/eval/fold-1/predictions.parquet"
    table = pq.read_table(place)
    pq.write_table(table.take(list(range(59, 9, -1))), place)  # 50 of the 60, in another order
    theirs = read_experiment(tmp_path, "theirs", (1,))
    found = compare(ours, theirs)
    assert (found.clips, found.only_ours, found.only_theirs) == (50, 10, 0)
    right = [
        dict(zip(one.split.clip, one.split.predicted == one.split.label, strict=True))
        for one in (ours, theirs)
    ]
    a, b = (np.array([each[clip] for clip in theirs.split.clip]) for each in right)
    war = found.pairs[0]
    assert war.difference.value == pytest.approx(100 * (a.mean() - b.mean()))
    assert war.difference.low < war.difference.value < war.difference.high
    assert war.verdict == "better"
    exact = binomtest(int((a & ~b).sum()), int((a != b).sum()))
    assert found.test.p == pytest.approx(exact.pvalue)
    nothing = compare(ours, read_experiment(root, "fold 2", (2,)))
    assert (nothing.clips, nothing.pairs, nothing.test) == (0, (), None)


def test_lower_is_better_where_it_is(root, tmp_path):
    write_fold(tmp_path, 1, skill=0.5)
    found = compare(read_experiment(tmp_path, folds=(1,)), read_experiment(root, "good", (1,)))
    verdicts = {pair.name: pair.verdict for pair in found.pairs}
    assert (verdicts["WAR"], verdicts["NLL"], verdicts["Brier, calibrated"]) == ("worse",) * 3


def test_params_that_differ_are_listed_by_their_dotted_keys():
    ours = {"seed": 0, "train": {"lr": 0.1, "flag": True, "same": None}}
    theirs = {"seed": 0, "train": {"lr": 0.2, "flag": 1, "same": None, "new": [1, 2]}}
    assert differing(ours, theirs) == [
        ("train.lr", "0.1", "0.2"),
        ("train.flag", "true", "1"),
        ("train.new", "not there", "[1, 2]"),
    ]


def test_the_clips_shown_are_the_surest_errors_and_the_least_sure(experiment):
    worst, doubtful = choose(experiment, 5)
    p, label = experiment.probabilities, experiment.split.label
    wrong = [i for i in range(len(label)) if p[i].argmax() != label[i]]
    assert [case.row for case in worst] == sorted(wrong, key=lambda i: -p[i].max())[:5]
    assert not {case.row for case in worst} & {case.row for case in doubtful}
    rest = sorted(set(range(len(label))) - {case.row for case in worst}, key=lambda i: p[i].max())
    assert [case.row for case in doubtful] == rest[:5]
    for case in (*worst, *doubtful):
        assert (case.decision is None) == (p[case.row].max() < EVERY_CLASS.threshold)
    assert any(case.decision is None for case in doubtful)


def test_faces_are_those_of_the_shards_scaled(root, experiment):
    folder = open_shards(root / "data/synthetic/shards")
    clip, absent = experiment.split.clip[4], experiment.split.clip[1]
    found = read_strips(folder, [clip, absent])
    assert list(found) == [clip]
    jpeg = base64.b64decode(found[clip].removeprefix("data:image/jpeg;base64,"))
    pixels = simplejpeg.decode_jpeg(jpeg, "RGB").astype(int)
    assert pixels.shape == (SIDE, 16 * SIDE, 3)
    row = int(np.flatnonzero(folder.clip == clip)[0])
    tar = (folder.root / folder.files[folder.shard[row]]).read_bytes()
    stored = tar[folder.offset[row] :][: folder.size[row]]
    for t, face in enumerate(decode_strip(stored, 64, 16)):
        small = cv2.resize(face, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        shown = pixels[:, t * SIDE + 8 : (t + 1) * SIDE - 8]
        assert abs(shown.mean() - small.mean()) < 2


def test_nothing_in_the_data_becomes_html(html, page):
    assert html.count(str(Markup.escape(HOSTILE))) > 10
    assert not page.problems
    assert not page.open
    assert not page.all("script", "iframe", "object", "embed", "form", "base")
    assert all(attrs["src"].startswith("data:image/jpeg;base64,") for attrs in page.all("img"))
    for _, attrs in page.tags:
        assert not [key for key in attrs if key.startswith("on") or key == "style"]
    links = [attrs["href"] for attrs in page.all("a", "link")]
    assert all(link.startswith("#") or link == "data:," for link in links)
    assert len(html) < 5e6


def test_the_policy_allows_the_one_style_sheet_and_pictures_only(html, page):
    policy = next(a for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    style = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    assert len(style) == 1
    digest = base64.b64encode(hashlib.sha256(style[0].encode()).digest()).decode()
    assert policy["content"].startswith(
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}';"
    )
    assert not re.search(r"url\(|@import|https?:", style[0])


def test_the_form_of_the_page_is_sound(html, page):
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(set(ids)) == len(ids)
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))
    assert [len(page.all(tag)) for tag in ("main", "nav", "header")] == [1, 1, 1]
    for attrs in page.all("a"):
        assert attrs["href"].removeprefix("#") in ids
    for attrs in page.all("section"):
        assert attrs["aria-labelledby"] in ids
    assert html.count("<table") == html.count("<caption") > 8
    assert all("scope" in attrs for attrs in page.all("th"))
    assert all(attrs.get("alt") for attrs in page.all("img"))
    shown = [attrs for attrs in page.all("svg") if attrs.get("aria-hidden") != "true"]
    assert len(shown) > 25
    for attrs in shown:
        assert attrs["role"] == "img"
        assert set(attrs["aria-labelledby"].split()) <= set(ids)


def test_the_page_says_what_came_of_the_data_and_the_params(page):
    words = " ".join(page.words.split())
    for told in (
        "SAFE (small backbone) on synthetic",
        "clips in the manifest 110",
        "clips in shards 55",
        "clips left out of the shards 3",
        "faces: error 3",
        "train.lr 0.001 0.002",
        "Left out 3",
        "Training, clips a second, median of the epochs: fold 1 50.0, fold 2 50.0.",
        "never on test clips",
        "not what a person feels",
    ):
        assert told in words, told


def test_what_is_missing_is_a_sentence(tmp_path):
    write_fold(tmp_path, 1, calibration=None)
    (tmp_path / "runs/synthetic/calibrate/fold-1/model.json").unlink()
    (tmp_path / "runs/synthetic/eval/fold-1/metrics.json").write_text("{")
    bare = read_experiment(tmp_path)
    words = " ".join(
        Page(render_page(bare, [], Sources(shards=tmp_path / "none"), now=NOON)).words.split()
    )
    for told in (
        "Fold 2 has no predictions",
        "Fold 1: runs/synthetic/eval/fold-1/metrics.json: damaged",
        "Fold 1 has no model.json",
        "This model is not calibrated",
        "No threshold was fitted: every clip gets a decision",
        "There are no prediction sets",
        "There are no training curves",
        "There are no faces here. The shards cannot be read",
        "The cost is not known",
        "The parameters of this run are not known",
        "There is no dvc.lock at hand",
    ):
        assert told in words, told
    with pytest.raises(DataError, match="no predictions of fold 3"):
        read_experiment(tmp_path, folds=(3,))


def test_the_verb_writes_the_page_and_leaves_faces_out_where_asked(root, tmp_path, monkeypatch):
    """With faces it is tests/test_classes_end_to_end.py's."""
    monkeypatch.chdir(root)
    out = tmp_path / "page.html"
    run_report(Path("params.yaml"), None, ["other"], out, faces=False)
    assert "data:image/jpeg" not in out.read_text()
    assert "Faces were left out of this page" in out.read_text()
    assert "ours and other" not in out.read_text()
    assert "workspace and other" in out.read_text()


def test_a_name_that_is_not_held_is_one_line(monkeypatch, root):
    monkeypatch.chdir(root)
    monkeypatch.setattr("cli.report.held", lambda folder: [])  # DVC knows none
    with pytest.raises(
        ConfigError, match=r"--with nobody: neither a folder nor .* there are: none"
    ):
        run_report(Path("params.yaml"), None, ["nobody"], Path("x.html"), faces=False)


def test_a_picture_in_the_page_has_its_colours_ids_of_its_own_and_no_style():
    @styled
    def drawn(name: str, title: str = HOSTILE) -> str:
        figure = sheet(70, 35, layout="none")
        panel = add_panel(figure, 5, 5, 60, 20)
        panel.bar([1], [1], color="#0072B2", hatch="//", edgecolor="#D55E00")
        panel.text(0.5, 0.5, HOSTILE + " $x$", color="white")
        panel.scatter([1, 1.2], [0.5, 0.7], c="#3322AA")
        return str(inline(figure, name, title, HOSTILE))

    first, page = drawn("a"), Page(drawn("a") + drawn("b"))
    assert drawn("a") == first
    assert not page.problems
    assert not page.open
    svg = page.all("svg")[0]
    assert (svg["width"], svg["viewbox"]) == ("340", "0 0 198.43 99.21")
    assert svg["aria-labelledby"] == "a-title a-desc"
    assert page.words.count(HOSTILE + " $x$") == 2
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(set(ids)) == len(ids) > 6
    used = set(re.findall(r"#([ab]-\w+)", first))
    assert used <= set(ids)
    assert not re.search(r"style=|#[0-9A-Fa-f]{6}\b|<metadata", first)
    for colour in ("0072B2", "D55E00", "ground", "3322AA"):
        assert f"var(--{colour})" in first
        assert colour == "ground" or colour_rules().count(f"--{colour}:#") == 2
    beside = Page(drawn("c", "")).all("svg")[0]
    assert beside["aria-hidden"] == "true"
    assert "role" not in beside


def test_windows_lie_under_the_frames_that_they_cover():
    def boxes(window: int, stride: int, frames: int) -> list[tuple[float, float]]:
        panel = windows_strip(np.array([0.1, 0.5, 0.4]), window, stride, frames).axes[0]
        assert panel.get_position().bounds == (0, 0, 1, 1)
        assert [word.get_text() for word in panel.texts] == ["10", "50", "40"]
        found = [(box.get_x() / frames, box.get_width() / frames) for box in panel.patches]
        assert panel.get_xlim() == (0, frames)
        return found

    assert boxes(4, 6, 16) == [(0, 0.25), (0.375, 0.25), (0.75, 0.25)] == boxes(8, 12, 32)


def test_a_page_of_clips_of_eight_frames(tmp_path):
    write_fold(tmp_path, 1, windows=3, frames=8)
    experiment = read_experiment(tmp_path, folds=(1,))
    shards = write_half(tmp_path, experiment, 8)
    page = Page(render_page(experiment, [], Sources(shards=shards), now=NOON))
    assert not page.problems
    pictures = [a for a in page.all("img") if "faces of clip" in a["alt"]]
    assert pictures
    for attrs in pictures:
        assert attrs["alt"].startswith("The 8 faces of clip")
        assert (attrs["width"], attrs["height"]) == (str(8 * SIDE), str(SIDE))
        jpeg = base64.b64decode(attrs["src"].removeprefix("data:image/jpeg;base64,"))
        assert simplejpeg.decode_jpeg_header(jpeg)[:2] == (SIDE, 8 * SIDE)
    assert "Attention over windows" in page.words
    assert "8 frames of 32 x 32 pixels" in page.words
    shutil.rmtree(shards)
    write_half(tmp_path, experiment, 16)  # other clips than the model's: windows would not fit
    groups = _clips(experiment, Sources(shards=shards))["cases"]
    assert not [case["strip"] for _, cases in groups for case in cases if case["strip"]]


@cache
def colours(scheme: str) -> dict[str, str]:
    """Custom properties of the style sheet in a colour scheme."""
    sheet = (ROOT / "safe/report/style.css").read_text()
    blocks = re.findall(r":root \{(.*?)\}", sheet, re.DOTALL)
    found = dict(re.findall(r"--([a-z]+): ([^;]+);", blocks[0]))
    return (
        found | dict(re.findall(r"--([a-z]+): ([^;]+);", blocks[1])) if scheme == "dark" else found
    )


def rgb(colour: str) -> np.ndarray:
    if colour.startswith("#"):
        return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], dtype=float)
    return np.array([float(part) for part in colour.split(",")])


def contrast(a: np.ndarray, b: np.ndarray) -> float:
    """WCAG 2.2, relative luminance."""

    def luminance(colour: np.ndarray) -> float:
        c = colour / 255
        return float(np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ WEIGHTS)

    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


WEIGHTS = np.array([0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_their_ground(scheme):
    named = {key: rgb(value) for key, value in colours(scheme).items() if value[0] in "#0123456789"}
    for word in ("ink", "soft", "link", "good", "bad"):
        assert contrast(named[word], named["ground"]) >= 4.5, word
    assert contrast(named["ink"], named["warn"]) >= 4.5
    sheet = (ROOT / "safe/report/style.css").read_text()
    cells = {20: 1.0}
    for names, depth in re.findall(r"((?:\.q\d+(?:, )?)+) \{ background: [^,}]+, ([.\d]+)", sheet):
        cells |= {int(number): float(depth) for number in re.findall(r"\d+", names)}
    assert sorted(cells) == list(range(21))
    places = [(depth, "onheat" if number >= 12 else "ink") for number, depth in cells.items()]
    for share in np.linspace(0, 1, 101):
        depth, word = shade(share)
        places.append((depth, "ground" if word == "white" else "ink"))
    for depth, word in places:
        ground = depth * named["heat"] + (1 - depth) * named["ground"]
        assert contrast(named[word], ground) >= 4.5, depth


def test_every_class_has_a_colour_and_a_name_in_the_legend(html):
    legend = html.split('class="legend"')[1].split("</ul>")[0]
    for name, key in zip(BASIC, legend.split("<li>")[1:], strict=True):
        colour = class_looks(BASIC)[name][0][1:].replace("000000", "ink")
        assert f"var(--{colour})" in key
        assert f" {name} <" in key


LOOSE = ("very happy + loud", "笑顔", "überrascht", "x-y_z")


def test_a_page_of_other_classes_chosen_on_test_clips_beside_a_run_of_the_basic_ones(
    root, tmp_path
):
    classes, chosen = (*BASIC[:4], *LOOSE), {"rule": "test", "epoch": 1}
    how = {"classes": classes, "present": 7, "calibration": None, "selection": chosen}
    write_fold(tmp_path, 1, n=70, **how)
    place = tmp_path / "runs/synthetic/eval/fold-1/metrics.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"selection": "test"}))
    experiment = read_experiment(tmp_path, folds=(1,))
    theirs = read_experiment(root, "theirs", (1,))
    text = render_page(experiment, [theirs], Sources(), now=NOON)
    page = Page(text)
    assert not page.problems
    assert "Selected on the test clips." in text
    assert [attrs["class"] for attrs in page.all("table") if "matrix" in str(attrs)] == ["matrix"]
    words = " ".join(page.words.split())
    assert all(name in words for name in classes)
    for told in (
        "UAR over 7 of 8 classes",
        "Fold 1: UAR over 7 of 8 classes; the others have no test clips there.",
        "Without test clips: x-y_z.",
        "x-y_z 0 not defined",
        "The two are of different classes",
    ):
        assert told in words, told
    keys = text.split('class="legend"')[1].split("</ul>")[0].split("<li>")[1:]
    for (colour, _), key in zip(class_looks(classes).values(), keys, strict=True):
        assert f"var(--{colour[1:].replace('000000', 'ink')})" in key


def test_a_page_of_many_classes(tmp_path):
    count = 50
    classes = tuple(f"class {i}" for i in range(count))
    calibration = Calibration(
        method="vector",
        scale=(0.9,) * count,
        bias=(0.1,) * count,
        level=0.9,
        cutoffs=(0.02,) * count,
        clips=9,
    )
    write_fold(tmp_path, 1, n=2 * count, classes=classes, calibration=calibration)
    text = render_page(read_experiment(tmp_path, folds=(1,)), [], Sources(), now=NOON)
    page = Page(text)
    assert not page.problems
    assert len(text) < 2e6
    tables = [attrs.get("class") for attrs in page.all("table") if "matrix" in str(attrs)]
    assert tables == ["matrix many"]
    for attrs in page.all("svg"):
        assert float(attrs["height"]) < 600


def test_experiments_of_other_classes_are_not_compared(root, tmp_path):
    ours = read_experiment(root, folds=(1,))
    write_fold(tmp_path, 1, classes=BASIC[::-1], calibration=None)
    theirs = read_experiment(tmp_path, "theirs", (1,))
    found = compare(ours, theirs)
    assert (found.same_classes, found.clips, found.pairs, found.test) == (False, 0, (), None)
    write_fold(tmp_path, 2, calibration=None)
    with pytest.raises(DataError, match="different classes cannot be pooled"):
        read_experiment(tmp_path, folds=(1, 2)).split  # noqa: B018


def test_a_comparison_leaves_out_recalls_of_classes_without_clips(tmp_path):
    for name, skill in (("a", 2.0), ("b", 1.0)):
        write_fold(tmp_path / name, 1, n=80, skill=skill, present=6, calibration=None)
    ours, theirs = (read_experiment(tmp_path / name, name, (1,)) for name in "ab")
    names = [pair.name for pair in compare(ours, theirs).pairs]
    assert names[1] == "UAR over 6 of 7 classes"
    assert [name for name in names if "Recall" in name] == [f"Recall {name}" for name in BASIC[:6]]
