"""Rows against scipy, scikit-learn and tables worked by hand."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from safe.errors import DataError
from safe.evaluation.compare import (
    Entry,
    Estimate,
    differences,
    estimates,
    judge,
    mcnemar_by_seed,
    table_markdown,
)
from safe.evaluation.intervals import Mcnemar, share_interval
from safe.evaluation.metrics import summarize
from safe.evaluation.predictions import Split
from safe.taxonomy import BASIC, Classes

K = len(BASIC)

MISSING = Entry({}, {})


def estimate(entry: Entry, metric: str, **how) -> Estimate:
    return estimates(entry, [metric], **how)[metric]


def difference(entry: Entry, other: Entry, metric: str, **how) -> tuple[float, float, float]:
    return differences(entry, other, [metric], **how)[metric]


def say(
    labels,
    predicted,
    *,
    sure: float = 6.0,
    prefix: str = "clip",
    classes: Classes = BASIC,
) -> Split:
    """A split in which the model says this, this surely."""
    n = len(labels)
    return Split(
        clip=tuple(f"{prefix}-{i}" for i in range(n)),
        label=np.asarray(labels),
        classes=classes,
        logits=sure * np.eye(len(classes))[predicted],
        embedding=np.zeros((n, 2)),
        attention=np.ones((n, 1)),
    )


def train(accuracy: float, *, seeds=(0, 1, 2), clips: int = 500, model: int = 1, **rest) -> Entry:
    """A row whose seeds are that accurate; clips that are hard for one run are so for most."""
    world = np.random.default_rng(clips)
    labels, hardness = world.integers(0, K, clips), world.random(clips)
    splits = {}
    for seed in seeds:
        rng = np.random.default_rng([model, seed])
        own = np.where(rng.random(clips) < 0.7, hardness, rng.random(clips))
        wrong = (labels + rng.integers(1, K, clips)) % K
        split = say(labels, np.where(own < accuracy, labels, wrong))
        splits[seed] = Split(
            **{**vars(split), "logits": split.logits + rng.normal(size=(clips, K))}
        )
    return Entry(splits, rest.pop("paper", {}), **rest)


def test_values_are_those_of_scikit_learn_in_percent():
    row = train(0.7, paper={"uar": 60.55})
    for figure, theirs in [("war", accuracy_score), ("uar", balanced_accuracy_score)]:
        found = estimate(row, figure)
        expected = [100 * theirs(s.label, s.logits.argmax(1)) for s in row.splits.values()]
        assert found.values == pytest.approx(expected, rel=1e-12)
        assert found.mean == pytest.approx(np.mean(expected))
        assert found.deviation == pytest.approx(np.std(expected, ddof=1))
        assert found.low < found.mean < found.high
        assert found.paper == row.paper.get(figure)


@pytest.mark.parametrize("figure", ["ece", "nll", "brier"])
def test_calibration_has_estimates_too(figure):
    row = train(0.7)
    found = estimate(row, figure, bins=10)
    expected = [summarize(s.logits, s.label, 10, BASIC)[figure] for s in row.splits.values()]
    assert found.values == tuple(expected)
    assert found.low < found.mean < found.high


def test_a_calibrated_figure_is_of_the_scaled_logits():
    row = train(0.7)
    halved = {k: replace(s, scaled=s.logits / 2) for k, s in row.splits.items()}
    found = estimate(Entry(halved, {}), "nll_calibrated")
    assert found == estimate(
        Entry({k: replace(s, logits=s.logits / 2) for k, s in row.splits.items()}, {}), "nll"
    )
    assert estimate(Entry(halved, {}), "nll").values == estimate(row, "nll").values
    with pytest.raises(DataError, match=r"not calibrated; run it with train\.select: val"):
        estimate(row, "nll_calibrated")


def test_war_interval_of_a_mean_over_seeds_is_that_of_scipy():
    row = train(0.7)
    right = np.mean([s.predicted == s.label for s in row.splits.values()], axis=0)
    theirs = scipy.stats.bootstrap(
        (right,), np.mean, n_resamples=20_000, batch=1000, method="percentile", rng=1
    )
    found = estimate(row, "war")
    # 5 standard errors of an end, and the 0.15 points by which Wilson's lies nearer to one half
    error = 5 * 0.019 * theirs.standard_error + 0.002
    expected = np.array(theirs.confidence_interval)
    assert (found.low, found.high) == pytest.approx(tuple(100 * expected), abs=100 * error)
    one = estimate(Entry({0: row.splits[0]}, {}), "war")
    alone = share_interval(row.splits[0].predicted == row.splits[0].label, unit=100)
    assert (one.low, one.high) == alone


def test_differences_are_paired_as_scipy_pairs_them():
    a, b = train(0.75), train(0.7, seeds=(0, 1), model=2)
    assert a.splits.keys() == {0, 1, 2}  # the third seed, which b has not, is left out
    right = [
        np.mean([row.splits[seed].predicted == row.splits[seed].label for seed in (0, 1)], axis=0)
        for row in (a, b)
    ]
    theirs = scipy.stats.bootstrap(
        right,
        lambda x, y, axis: x.mean(axis) - y.mean(axis),
        paired=True,
        n_resamples=20_000,
        batch=1000,
        method="percentile",
        rng=1,
    )
    point, low, high = difference(a, b, "war")
    assert point == pytest.approx(100 * (right[0].mean() - right[1].mean()))
    error = 5 * np.hypot(0.019, 0.027) * theirs.standard_error + 0.001
    expected = np.array(theirs.confidence_interval)
    assert (low, high) == pytest.approx(tuple(100 * expected), abs=100 * error)
    alone = [estimate(row, "war") for row in (a, b)]
    assert high - low < 0.9 * np.hypot(*[x.high - x.low for x in alone])


@pytest.mark.parametrize("figure", ["uar", "ece", "recall.fear"])
def test_a_difference_turns_its_sign_with_the_rows_and_is_nothing_to_itself(figure):
    a, b = train(0.75), train(0.7, model=2)
    point, low, high = difference(a, b, figure)
    assert difference(b, a, figure) == pytest.approx((-point, -high, -low))
    assert low < point < high
    assert difference(a, a, figure) == (0, 0, 0)


def test_what_is_missing_is_nan_and_has_no_values():
    found = estimate(Entry({}, {"war": 72.06}), "war")
    assert found.values == ()
    assert all(math.isnan(x) for x in (found.low, found.high, found.mean, found.deviation))
    assert found.paper == 72.06
    assert all(math.isnan(x) for x in difference(train(0.7, clips=20), MISSING, "war"))
    assert mcnemar_by_seed(train(0.7, clips=20), MISSING) == {}
    no_fear = Entry({0: say([0, 1], [0, 1])}, {})
    assert estimate(no_fear, "recall.fear").values == ()
    assert estimate(no_fear, "recall.sad").values == (100,)


def test_runs_on_other_clips_are_refused_in_one_line():
    good = say([0, 1, 2], [0, 1, 2])
    others = [
        say([0, 1, 2], [0, 1, 2], prefix="other"),
        say([0, 1, 3], [0, 1, 2]),
        say([0, 1], [0, 1]),
        Split(**{**vars(good), "clip": good.clip[::-1]}),
    ]
    for other in others:
        with pytest.raises(DataError) as error:
            estimate(Entry({0: good, 7: other}, {}), "war", name="SAFE")
        assert re.fullmatch(
            r"SAFE, seed 7, and SAFE, seed 0: not the same clips.+", str(error.value)
        )
        for compare in (lambda *x, **k: difference(*x, "war", **k), mcnemar_by_seed):
            with pytest.raises(DataError, match=r"^b, seed 0, and a, seed 0: not the same clips"):
                compare(Entry({0: good}, {}), Entry({0: other}, {}), names=("a", "b"))


def test_mcnemar_takes_the_seeds_that_both_have():
    labels = np.zeros(8, dtype=int)
    first = say(labels, [0] * 8)
    second = say(labels, [0] * 2 + [1] * 6)  # the first alone has six right: p = 2 / 2^6
    found = mcnemar_by_seed(
        Entry({0: first, 2: first, 3: first}, {}), Entry({3: first, 1: first, 0: second}, {})
    )
    assert found == {0: Mcnemar(6, 0, 0.03125), 3: Mcnemar(0, 0, 1.0)}


@pytest.mark.parametrize(
    ("interval", "paper", "verdict"),
    [
        ((1.0, 0.2, 1.9), 5.1, "agrees"),
        ((-1.0, -1.9, -0.2), -5.1, "agrees"),
        ((-1.0, -1.9, -0.2), 5.1, "against the paper"),
        ((1.0, 0.2, 1.9), 0.0, "against the paper"),
        ((1.0, -0.2, 1.9), 5.1, "undecided"),
        ((0.0, 0.0, 0.0), 5.1, "undecided"),
        ((1.0, -0.2, 1.9), None, "undecided"),
        ((1.0, 0.2, 1.9), None, "-"),
    ],
)
def test_verdicts(interval, paper, verdict):
    assert judge(*interval, paper) == verdict


def tables(text: str) -> list[list[dict[str, list[str]]]]:
    """Each table of a Markdown text as its lines below the rule: the cells."""
    blocks = [b.splitlines() for b in text.split("\n\n") if b.startswith("|")]
    for lines in blocks:
        assert len({len(line) for line in lines}) == 1, "columns must line up"
        assert set(lines[1]) <= set("|-: ")
    return [
        [[cell.strip() for cell in line[1:-1].split(" | ")] for line in (lines[0], *lines[2:])]
        for lines in blocks
    ]


def right(count: int, *, of: int = 10) -> Split:
    """A split of one class in which the first `count` clips are right."""
    return say([0] * of, [0] * count + [1] * (of - count))


ASK = {"asked": 2, "dataset": "synthetic", "paper_dataset": "DFEW"}


def test_a_table_worked_by_hand():
    rows = {
        "baseline": Entry({0: right(8), 1: right(4)}, {"war": 68.32, "war_std": 0.5}),
        "TAM": Entry({1: right(9)}, {"war": 70.85}, against="baseline"),
        "SAFE": Entry({}, {"war": 73.42}, against="baseline"),
        "ours|only": Entry({0: right(8), 1: right(4)}, {}, against="baseline"),
        "HDF": Entry({}, {"war": 71.6}, built=False),
        "beyond": Entry({0: right(8)}, {}, against="HDF"),
    }
    text = table_markdown(rows, ["war", "recall.happy", "recall.fear", "ece"], **ASK)
    figures, pairs = tables(text)
    fear, ece = ["fear", "95 %"], ["ECE", "95 %"]
    assert figures[0] == (
        ["row", "seeds", "WAR", "95 %", "WAR paper", "ours - paper", "happy", "95 %", *fear, *ece]
    )
    cell = {line[0]: line[1:] for line in figures[1:]}
    # 80 and 40: mean 60, deviation sqrt(2 * 20^2 / 1) = 28.28; 60 - 68.32 = -8.32
    assert cell["baseline"][:2] == ["2/2", "60.00 ± 28.28"]
    assert cell["baseline"][3:6] == ["68.32 ± 0.50", "-8.32", "60.00 ± 28.28"]
    assert cell["baseline"][7:9] == ["no clip", "-"]
    assert re.fullmatch(r"0\.\d{4} ± 0\.\d{4}", cell["baseline"][9])
    assert re.fullmatch(r"\[0\.\d{4}, 0\.\d{4}\]", cell["baseline"][10])
    assert cell["TAM"][:2] == ["1/2", "90.00"]  # one seed has no deviation
    assert cell["TAM"][3:5] == ["70.85", "+19.15"]
    low, high = map(float, cell["TAM"][2].strip("[]").split(", "))
    assert 50 <= low < 90 < high < 100
    missing = ["missing", "-"]
    assert cell["SAFE"] == ["0/2", *missing, "73.42", "-", *missing * 3]
    assert cell["ours\\|only"][3:5] == ["-", "-"]
    not_built = ["not built here", "-"]
    assert cell["HDF"] == ["-", *not_built, "71.60", "-", *not_built * 3]

    assert pairs[0][:6] == ["row", "against", "WAR difference", "95 %", "paper", "verdict"]
    pair = {line[0]: line[1:] for line in pairs[1:]}
    assert list(pair) == ["TAM", "SAFE", "ours\\|only", "beyond"]
    # seed 1 alone, 90 - 40: five clips that TAM alone has right, p = 2 / 2^5 = 0.0625. A resample
    # of the ten clips has none of these in 0.5^10 = 0.1 % of the cases
    assert pair["TAM"][:2] == ["baseline", "+50.00"]
    assert pair["TAM"][3:5] == ["+2.53", "agrees"]
    assert pair["TAM"][7:] == ["-", "-", "seed 1: 5/0, p 0.062"]
    assert pair["SAFE"] == ["baseline", *missing, "+5.10", "-", *missing, "-", "-", "-"]
    nothing = ["+0.00", "[+0.00, +0.00]", "-", "undecided"]
    tests = "seed 0: 0/0, p 1.0; seed 1: 0/0, p 1.0"
    assert pair["ours\\|only"] == ["baseline", *nothing, *nothing, tests]
    assert pair["beyond"] == ["HDF", *[*not_built, "-", "-"] * 2, "-"]
    assert "nan" not in text
    assert "None" not in text


def test_the_text_says_which_data_and_which_epoch():
    rows = {"SAFE": Entry({0: right(1500, of=2400)}, {"war": 72.06})}
    text = table_markdown(rows, ["war"], **ASK, note="Table IV h and Table VII disagree.\n")
    first, warning, *_, last = text.split("\n\n")
    assert first == (
        "Ours: synthetic, 2,400 test clips, each run at its last epoch. Paper: DFEW. UAR over 1 of "
        "7 classes: no test clip of sad, neutral, angry, surprise, disgust, fear."
    )
    assert "only the differences between rows can be compared" in warning
    assert last == "Table IV h and Table VII disagree.\n"
    assert "Pairs" not in text
    same = table_markdown(rows, ["war"], **{**ASK, "dataset": "dfew"}, selection="test")
    assert "different data" not in same
    assert "CHOSEN ON THE TEST CLIPS" in same
    assert "no test clips" in table_markdown({"SAFE": MISSING}, ["war"], **ASK)
    folds = {"a": Entry({0: right(5)}, {}), "b": Entry({0: right(5, of=20)}, {})}
    assert "10 to 20 test clips" in table_markdown(folds, ["war"], **ASK)


def test_a_reference_must_be_a_row():
    with pytest.raises(DataError, match="row SAFE: its reference base must be one of the rows"):
        table_markdown({"SAFE": Entry({}, {}, "base")}, ["war"], **ASK)


def test_a_row_that_is_better_on_every_seed_agrees_with_a_paper_that_says_so():
    paper = [{"war": 68.32, "uar": 58.0}, {"war": 73.42, "uar": 63.66}]
    rows = {
        "baseline": train(0.65, paper=paper[0]),
        "SAFE": train(0.75, model=2, paper=paper[1], against="baseline"),
    }
    line = tables(table_markdown(rows, ["war"], **ASK))[1][1]
    assert [line[4], line[5], line[8], line[9]] == ["+5.10", "agrees", "+5.66", "agrees"]
    turned = {
        "baseline": train(0.75, paper=paper[0]),
        "SAFE": train(0.65, model=2, paper=paper[1], against="baseline"),
    }
    line = tables(table_markdown(turned, ["war"], **ASK))[1][1]
    assert [line[5], line[9]] == ["against the paper"] * 2


@pytest.mark.parametrize("count", [2, 11])
def test_rows_of_other_classes_one_of_them_without_clips(count):
    classes = tuple(f"c{number}" for number in range(count))
    labels = np.arange(60) % (count - 1)
    good = say(labels, labels, classes=classes)
    bad = say(labels, np.where(np.arange(60) % 3, labels, count - 1), classes=classes)
    rows = {"a": Entry({0: good}, {}, "b"), "b": Entry({0: bad}, {})}
    assert estimate(rows["b"], "uar").mean == pytest.approx(200 / 3, abs=5)
    assert difference(rows["a"], rows["b"], "war")[0] == pytest.approx(100 / 3)
    assert estimate(rows["a"], f"recall.c{count - 1}").values == ()
    text = table_markdown(rows, ["uar", f"recall.c{count - 1}"], **ASK)
    first = text.split("\n\n")[0]
    told = f" UAR over {count - 1} of {count} classes: no test clip of c{count - 1}."
    assert first.endswith(told)
    assert tables(text)[0][1][4] == "no clip"
    every = say(list(range(count)), list(range(count)), classes=classes)
    assert "UAR over" not in table_markdown({"a": Entry({0: every}, {})}, ["uar"], **ASK)


def test_other_classes_and_a_class_that_is_not_there_are_refused_in_one_line():
    one = say([0, 1], [0, 1])
    turned = say([0, 1], [0, 1], classes=BASIC[::-1])
    with pytest.raises(DataError, match=r"^row, seed 1, is of the classes fear, disgust, .+, but "):
        estimate(Entry({0: one, 1: turned}, {}), "war")
    with pytest.raises(DataError, match=r"^SAFE: recall\.bored: the runs have only .+ happy, sad"):
        estimate(Entry({0: one}, {}), "recall.bored", name="SAFE")
