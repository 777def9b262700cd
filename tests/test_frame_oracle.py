"""A part of the frame oracle: the right frame at its time, held against ffmpeg's own decoding.

The whole table is a long run, `python -m tools.faults.frames`; here are some videos of each
family, read
as clips by both decoders, as films, and through the stages faces and shard. SAFE_VIDEO_FILES may
name a folder of other videos, such as the test files of torchcodec, which are judged too.
"""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.video.decode import Decoded, Decoder
from tools.faults.frame_table import recipes
from tools.faults.frames import WAYS, judge_file, run_stages, tabulate
from tools.faults.numbered import Recipe, draw, make, read_number
from tools.faults.oracle import Truth, Verdict, ask, find_truth, judge, right_indices

TABLE = {recipe.name: recipe for recipe in recipes()}

SOME = """
h264-b2-open-mp4 h264-b8-open-pyramid-mov h264-b3-pyramid-avi h264-all-intra-avi h264-refs16-flv
hevc-b4-open-mkv mpeg1-b2-open-mkv mpeg2-b2-open-mpg mpeg4-b2-avi mpeg4-b2-qpel-4mv-mp4
mpeg4-packed-12-avi mpeg4-unpacked-50-avi h263-176-mkv vp8-altref-webm vp9-altref-mkv av1-svt-mp4
ffv1-yuv444p-mkv pixels-h264-yuv420p10le pixels-hevc-yuv420p12le pixels-vp9-yuv420p-odd
tags-h264-yuv420p10le-709-pc size-mjpeg-avi-97x65 edit-h264-open-cut-half edit-mpeg4-b2-pieces-cut
start-mpeg4-b2-mkv-10 sound-h264-b2-avi-later sound-h264-b2-mp4-long-before
uneven-h264-b2-mp4-pause uneven-vp9-webm-slower uneven-mpeg4-no-b-avi-lost rate-1-avi
rate-browser-webm empty-mjpeg-runs empty-h264-first cut-mpeg2-open-mkv fields-h264-tff-mp4
shape-64-45-mkv shape-turn-90-mirror-mp4 count-h264-mp4-1 count-mpeg4-avi-17
"""

STRIPS = """
h264-b2-open-mp4 mpeg4-b2-avi hevc-b4-open-mkv pixels-vp9-yuv420p-odd empty-mjpeg-runs
cut-mpeg2-open-mkv
"""


@pytest.mark.parametrize("name", SOME.split())
def test_the_right_frames_by_both_decoders_and_in_windows(name: str, tmp_path: Path) -> None:
    found = judge_file(TABLE[name], folder=tmp_path)
    assert (found["in order"], found["unread"]) == (True, 0), "the table is at fault"
    for way in WAYS[:3]:
        verdict = Verdict(**found[way])
        assert (verdict.outcome, verdict.reason) == ("whole", ""), way
        assert verdict.judged >= 16
        assert (verdict.wrong, verdict.faults) == (0, []), way


def test_the_right_frames_in_strips_with_and_without_the_strip_cache(
    tmp_path: Path, unguarded: None
) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    found = []
    for name in STRIPS.split():
        path = make(TABLE[name], folder)
        numbers = find_truth(path, TABLE[name].area).numbers
        found.append({"name": name, "file": path.name, "numbers": numbers})
    areas = {name: TABLE[name].area for name in STRIPS.split()}
    verdicts = run_stages(found, areas, folder, workers=1)
    told = {name: (verdict.outcome, verdict.reason) for name, verdict in verdicts.items()}
    assert told == dict.fromkeys(areas, ("whole", ""))
    wrong = {name: (verdict.wrong, verdict.faults) for name, verdict in verdicts.items()}
    assert wrong == dict.fromkeys(areas, (0, []))


# Is the judge awake?


def small(**changes: object) -> Recipe:
    return replace(TABLE["mjpeg-yuvj420p-mkv"], **changes)


def answer(path: Path) -> Decoded:
    decoded = ask(path, "pyav")
    assert isinstance(decoded, Decoded)
    return decoded


@pytest.mark.parametrize("size", [(112, 80), (34, 50), (97, 65)])
@pytest.mark.parametrize("turn", [0, 90, 180, 270])
@pytest.mark.parametrize("mirrored", [False, True])
def test_numbers_can_be_read_however_a_picture_is_shown(
    size: tuple[int, int], turn: int, mirrored: bool
) -> None:
    recipe = small(size=size, turn=turn, mirrored=mirrored)
    for number in (0, 1, 77, 128, 255):
        shown = np.rot90(draw(number, recipe), turn // 90)
        shown = shown[:, ::-1] if mirrored else shown
        assert read_number(shown, recipe.area) == number
    assert read_number(np.full((*size, 3), 128, np.uint8), recipe.area) == -1


def test_frames_that_are_others_or_off_in_colour_are_told(tmp_path: Path) -> None:
    path = make(small(), tmp_path)
    truth, decoded = find_truth(path, small().area), answer(path)
    assert not judge(decoded, truth, small().area).is_wrong
    later = truth.pictures[[index + 1 for index in decoded.indices]]
    assert judge(replace(decoded, frames=later), truth, small().area).wrong == 16
    unnumbered = find_truth(path, None)  # as of a video without squares
    assert not judge(decoded, unnumbered, None).is_wrong
    assert judge(replace(decoded, frames=later), unnumbered, None).wrong == 16
    assert judge(replace(decoded, frames=decoded.frames[::-1]), truth, small().area).wrong == 16
    paler = np.minimum(decoded.frames, 220)
    (fault,) = judge(replace(decoded, frames=paler), truth, small().area).faults
    assert fault.startswith("pixels off by")
    shifted = [index + 1 for index in decoded.indices]
    wrong = judge(replace(decoded, frames=later, indices=shifted, n_frames=41), truth, small().area)
    assert (wrong.wrong, len(wrong.faults)) == (0, 2)  # length and positions


def test_the_rule_of_time_by_hand() -> None:
    def at(stamps: list[float], last: float = 0.04) -> list[list[int]]:
        pictures = np.zeros((len(stamps), 2, 2, 3), np.uint8)
        return right_indices(Truth(pictures, list(range(len(stamps))), stamps, last, True))

    even = [0.04 * i for i in range(32)]
    assert at(even) == [list(range(1, 32, 2))]
    # 15 frames in the first second, then one a second: a segment is 1 s, its centre at the half.
    uneven = at([*(i / 15 for i in range(15)), *range(1, 16)], 1.0)
    assert [7, *range(15, 30)] in uneven
    assert [(2 * i + 1) * 30 // 32 for i in range(16)] not in uneven


def test_a_table_row_counts_what_is_wrong() -> None:
    good = {"outcome": "whole", "wrong": 0, "judged": 16, "faults": []}
    bad = {**good, "wrong": 3}
    damaged = {**bad, "outcome": "damaged"}
    one = {"family": "x", "decord": bad, "pyav": damaged, "windows": good, "strips": good}
    (row, total) = tabulate([one])
    assert (row["files"], row["wrong frames"], row["wrong files"]) == (1, 3, 1)
    assert (row["pyav: not taken as whole"], row["decord: whole"]) == (1, 1)
    assert {**total, "family": "x"} == row


# Other videos

FOLDER = os.environ.get("SAFE_VIDEO_FILES", "")
OTHERS = sorted(path for path in Path(FOLDER).rglob("*") if path.is_file()) if FOLDER else []


@pytest.mark.skipif(not OTHERS, reason="no other videos here (SAFE_VIDEO_FILES names their folder)")
@pytest.mark.parametrize("path", OTHERS, ids=lambda path: path.name)
@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_other_videos(path: Path, decoder: Decoder) -> None:
    try:
        truth = find_truth(path, None)
    except RuntimeError as error:
        pytest.skip(f"ffmpeg itself shows no video: {str(error)[-100:]}")
    verdict = judge(ask(path, decoder), truth, None)
    assert not verdict.reason.startswith("raised")
    assert not verdict.is_wrong, (verdict.wrong, verdict.faults)
