"""Does the timeline show the answers at their times, bounded, and nothing where there was none?"""

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import StepPatch
from PIL import Image
from support import BLACK_FACE, answer, band

from pipeline.people import FLAGS
from safe.errors import DataError
from safe.evaluation.answers import ABSTAIN, Answer, Verdict
from safe.report import timeline
from safe.report.canvas import class_areas, class_looks
from safe.report.timeline import Band, draw_timeline, timeline_figure
from safe.taxonomy import BASIC

SAYS = {"classes": BASIC, "title": "a.mp4", "note": "apparent expression by m"}


def steps(figure) -> dict[str, StepPatch]:
    """What is drawn of each class in the first band."""
    found = [patch for patch in figure.axes[1].patches if isinstance(patch, StepPatch)]
    return dict(zip(BASIC, found, strict=True))


def at(figure, seconds: float, height: float) -> str | None:
    """Which class has its colour at a time and a height; None where it is blank."""
    for name, step in steps(figure).items():
        assert to_hex(step.get_facecolor()).upper() == class_looks(BASIC)[name][0]
        values, edges, baseline = step.get_data()
        column = np.searchsorted(edges, seconds, side="right") - 1
        if 0 <= column < len(values) and baseline[column] <= height < values[column]:
            return name
    return None


def test_each_instant_belongs_to_the_nearest_window_and_gaps_are_blank():
    made = band(answer(0, "happy"), answer(1, "fear"), answer(6, "sad"))
    figure = timeline_figure({1: made}, **SAYS, seconds=10)
    assert at(figure, 0.5, 0.3) == "happy"  # middles at 1 and 2, so the change is at 1.5
    assert at(figure, 1.45, 0.3) == "happy"
    assert at(figure, 1.55, 0.6) == at(figure, 2.9, 0.6) == "fear"
    assert at(figure, 3.1, 0.6) is at(figure, 5.9, 0.6) is None
    assert at(figure, 7, 0.5) == "sad"
    assert at(figure, 8.1, 0.5) is None
    assert figure.axes[1].get_xlim() == (0, 10)
    assert made.seconds == pytest.approx(5)


def test_the_heights_are_the_probabilities():
    figure = timeline_figure({1: band(answer(0, "angry"))}, **SAYS, seconds=2)
    tops = [float(step.get_data().values[0]) for step in steps(figure).values()]
    expected = [0.7 if name == "angry" else 0.05 for name in BASIC]
    assert tops == pytest.approx(np.cumsum(expected))


def test_what_is_abstained_from_is_hatched_and_said():
    made = band(answer(0, "happy"), answer(2, "sad", sure=False), answer(4, "sad", sure=False))
    figure = timeline_figure({1: made}, **SAYS, seconds=6)
    (hatched,) = [patch for patch in figure.axes[1].patches if patch.get_hatch()]
    assert (hatched.get_x(), hatched.get_width()) == (2, 4)
    assert [text.get_text() for text in figure.axes[1].texts] == ["happy", "abstain"]


def test_a_flag_has_a_lane_with_its_times_and_others_have_none():
    made = band(answer(0, "happy"), answer(2, "happy", flags=("dark",)), answer(4, "happy"))
    figure = timeline_figure({1: made}, **SAYS, seconds=6)
    (lane,) = [axes for axes in figure.axes if [text.get_text() for text in axes.texts] == ["dark"]]
    marked = [p for p in lane.patches if p.get_facecolor()[0] < 0.6]
    assert [(patch.get_x(), patch.get_width()) for patch in marked] == [(2, 2)]


def test_a_long_video_has_a_bounded_number_of_columns():
    made = band(*(answer(1.4 * i, BASIC[i % 7], length=2.8) for i in range(5000)))
    figure = timeline_figure({1: made}, **SAYS, seconds=7002)
    edges = steps(figure)["sad"].get_data().edges
    assert 0.8 * timeline.POINTS < len(edges) < 1.2 * timeline.POINTS
    assert edges[-1] - edges[0] == pytest.approx(made.seconds)


def test_a_face_that_flickers_does_not_make_it_endless():
    made = band(*(answer(4.0 * i, "sad", sure=i % 2 == 0) for i in range(3000)))
    figure = timeline_figure({1: made}, **SAYS, seconds=12_000)
    assert len(steps(figure)["sad"].get_data().edges) < 2 * timeline.POINTS


def test_every_flag_that_a_window_may_have_has_a_lane_and_others_come_after():
    assert set(timeline._ORDER) == set(FLAGS)
    made = band(answer(0, "happy", flags=("interlaced", *FLAGS, "HDR")))
    assert timeline._lanes(timeline._columns(made, 2).flags) == [*FLAGS, "HDR", "interlaced"]


def test_of_many_faces_those_seen_longest_are_shown_in_the_order_of_their_numbers():
    faces = {n: band(*(answer(2 * i, "sad") for i in range(n))) for n in range(1, 12)}
    figure = timeline_figure(faces, **SAYS, seconds=30)
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == [f"face {n}" for n in range(4, 12)]
    assert any("3 more faces" in text.get_text() for text in figure.texts)


def test_the_same_answers_give_the_same_bytes(tmp_path):
    for name in ("a.png", "b.png"):
        made = {1: band(answer(0, "sad", sure=False, flags=("small",)))}
        draw_timeline(made, tmp_path / name, **SAYS, seconds=30)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_name_may_hold_anything(tmp_path, recwarn):
    title = "$x_{1$ 日本 \\frac.mp4"
    out = tmp_path / "a.png"
    draw_timeline({1: band(answer(0, "sad"))}, out, classes=BASIC, title=title, note="n", seconds=3)
    assert Image.open(out).size[0] == 1417  # 180 mm at 200 dpi
    assert not [str(w.message) for w in recwarn if "Glyph" in str(w.message)]


def test_without_a_face_there_is_nothing_to_draw():
    with pytest.raises(DataError, match="no face to draw"):
        timeline_figure({}, **SAYS, seconds=3)


def of_many(count: int, likely: tuple[int, ...]) -> tuple[tuple[str, ...], Band]:
    """As many classes, and a face whose windows are each likely of one of some."""
    classes = (*BASIC, *(f"other {i}" for i in range(count - 7)))
    made = Band(BLACK_FACE)
    for place, k in enumerate(likely):
        chances = np.full(count, 0.2 / (count - 1))
        chances[k] = 0.8
        verdict = Verdict(tuple(chances), classes[k], None)
        made.add(Answer("a.mp4", 2.0 * place, 2.0 * place + 2, 1, verdict, (0, 0, 1, 1)))
    return classes, made


def test_eleven_classes_all_have_an_area_and_a_place_in_the_legend():
    classes, made = of_many(11, (0, 9))
    figure = timeline_figure({1: made}, **SAYS | {"classes": classes}, seconds=4)
    found = [patch for patch in figure.axes[1].patches if isinstance(patch, StepPatch)]
    colours = [to_hex(step.get_facecolor()).upper() for step in found]
    assert colours == [colour for colour, _ in class_looks(classes).values()]
    assert found[9].get_data().values[1] - found[9].get_data().baseline[1] == pytest.approx(0.8)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == [*classes, ABSTAIN]


def test_of_a_hundred_classes_those_never_likely_are_one_area(tmp_path):
    classes, made = of_many(100, (0, 9, 60))
    figure = timeline_figure({1: made}, **SAYS | {"classes": classes}, seconds=6)
    found = [patch for patch in figure.axes[1].patches if isinstance(patch, StepPatch)]
    assert len(found) == 4
    assert found[2].get_hatch() == class_areas(classes)[classes[60]]["hatch"] != ""
    assert found[-1].get_data().values == pytest.approx(1)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["happy", "other 2", "other 53", "97 others", ABSTAIN]
    draw_timeline({1: made}, tmp_path / "a.png", **SAYS | {"classes": classes}, seconds=6)
