"""Are names of files letters in pictures: those of other scripts, what is no letter, formulas?"""

import warnings

import numpy as np
import pytest
from PIL import Image
from support import answer, band

from safe.report import canvas
from safe.report.contact import Row, contact_figure
from safe.report.timeline import draw_timeline, timeline_figure
from safe.taxonomy import BASIC

NAMES = {
    "a b.mp4": "a b.mp4",
    "e\u0301.mp4": "é.mp4",
    "$\\frac$ a_1^2 $.mp4": "$\\frac$ a_1^2 $.mp4",
    "[id] %d {x}.mp4": "[id] %d {x}.mp4",
    "caf\udce9.mp4": "caf%E9.mp4",
    "two\nlines\x1b.mp4": "two[U+000A]lines[U+001B].mp4",
    "\U0001f9c0.mp4": "[U+1F9C0].mp4",
    "ΔЖ.mp4": "ΔЖ.mp4",
}
CJK = ("笑顔.mp4", "テスト.mp4", "한국어.mp4", "简体字.mp4", "繁體字.mp4")


def head_of(name: str) -> str:
    figure = timeline_figure(
        {1: band(answer(0, "sad"))}, classes=BASIC, title=name, note=name, seconds=2
    )
    sheet = contact_figure(name, name, [Row(name, None)])
    found = {figure.texts[0].get_text(), sheet.texts[0].get_text(), sheet.axes[0].get_title("left")}
    (head,) = found
    return str(head)


@pytest.mark.parametrize(
    "name", [*NAMES, CJK[0], CJK[2], "x" * 245, "笑" * 80], ids=lambda name: name[:9]
)
def test_every_name_is_drawn_in_letters_that_are_there(name, tmp_path, caplog):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of each letter that it has not
        bands = {1: band(answer(0, "sad"))}
        draw_timeline(bands, tmp_path / "a.png", classes=BASIC, title=name, note=name, seconds=2)
        canvas.save(contact_figure(name, name, [Row(name, None)]), tmp_path / "b.png")
    assert not caplog.records  # nor of a typeface
    if len(name) < 40:
        expected = NAMES.get(name, name)
        if name in CJK and len(canvas._fonts()) == 1:
            expected = "".join(f"[U+{ord(each):04X}]" for each in name[:-4]) + ".mp4"
        assert head_of(name) == expected


def test_two_names_are_two_pictures(tmp_path):
    pictures = set()
    for name in CJK:
        path = tmp_path / "a.png"
        draw_timeline(
            {1: band(answer(0, "sad"))}, path, classes=BASIC, title=name, note="", seconds=2
        )
        pictures.add(np.asarray(Image.open(path)).tobytes())
    assert len(pictures) == len(CJK)


LONG = ["W" * 60 + "x" * 150 + "end.mp4", "笑" * 80 + ".mp4", "i" * 251]


@pytest.mark.parametrize("name", LONG, ids=lambda name: name[:1])
def test_a_long_name_loses_its_middle_and_stays_inside(name):
    figure = timeline_figure(
        {1: band(answer(0, "sad"))}, classes=BASIC, title=name, note=name, seconds=2
    )
    sheet = contact_figure(name, name, [Row(name, None)])
    for each in (figure, sheet):
        each.set_dpi(200)  # as they are saved
        for text in (*each.texts[:2], *([each.axes[0]._left_title] if each is sheet else [])):
            assert "…" in text.get_text() or text.get_text() == name
            assert text.get_text()[0] == name[0] or text.get_text().startswith("[U+7B11]")
            assert text.get_text()[-1] == name[-1]
            each.canvas.draw()
            assert 0.5 * each.bbox.x1 < text.get_window_extent().x1 < each.bbox.x1


def test_the_letters_come_from_the_second_font_where_it_is_installed():
    pytest.importorskip("noto_cjk_sans_jp_regular")
    first, second = canvas._fonts()
    assert (first, second) == ("DejaVu Sans", "Noto Sans CJK JP")
    for name in CJK:
        assert {ord(each) for each in name[:-4]} <= canvas._fonts()[second]


def test_without_it_they_are_code_points(monkeypatch):
    monkeypatch.setattr(canvas, "_MORE", ("no_such_font", "x.otf"))
    canvas._fonts.cache_clear()
    try:
        assert head_of("笑 1.mp4") == "[U+7B11] 1.mp4"
        ((family, letters),) = canvas._fonts().items()
    finally:
        canvas._fonts.cache_clear()
    assert family == "DejaVu Sans"
    assert ord("é") in letters
