"""Are the boxes drawn where the face is, in every frame of a video that is otherwise the same?"""

from pathlib import Path

import av
import numpy as np
import pytest
from support import grey_ramp, write_video

from pipeline.annotate import Mark, Marks, annotate, draw_mark
from pipeline.pool.pool import Pool
from pipeline.video.decode import frame_indices
from safe.errors import DataError

RED, GREEN = (220, 30, 30), (30, 200, 30)
LIMITS = {"seconds": 2.0, "pool": Pool(deadline=60.0, memory=4.0)}


def mark(face: int, start: int, end: int, box=(20, 30, 60, 80), colour=RED) -> Mark:
    indices = tuple(start + i for i in frame_indices(end - start))
    return Mark(face, indices, np.tile(np.float32(box), (16, 1)), f"{face} sad 0.70", colour)


def frames(path: Path) -> tuple[list[np.ndarray], list[float]]:
    """Frames as they are shown, RGB, and their times."""
    with av.open(str(path)) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        assert container.streams.video[0].codec_context.name == "h264"
        found = [(frame.to_ndarray(format="rgb24"), frame.time) for frame in container.decode()]
    return [pixels for pixels, _ in found], [time for _, time in found]


def is_red(frame: np.ndarray, x: int, y: int) -> bool:
    red, green, blue = frame[y, x].astype(int)
    return bool(red > green + 60 and red > blue + 60)


def test_a_box_follows_its_face_and_is_there_only_while_it_is(tmp_path):
    video = write_video(tmp_path / "a.mp4", grey_ramp(50, height=120, width=160), fps=10)
    boxes = np.float32([[20 + i, 40, 60 + i, 90] for i in range(16)])
    moving = Mark(1, tuple(range(10, 42, 2)), boxes, "1 sad 0.70", RED)
    annotate(video, tmp_path / "out.mp4", [moving], **LIMITS)
    shown, times = frames(tmp_path / "out.mp4")
    assert len(shown) == 50
    assert np.diff(times) == pytest.approx(0.1)
    assert shown[0].shape == (120, 160, 3)
    assert not any(is_red(shown[i], 20, 70) for i in (0, 5, 48))
    for place, left in ((10, 20), (25, 27.5), (40, 35)):
        columns = [x for x in range(160) if is_red(shown[place], x, 70)]
        assert min(columns) == pytest.approx(left, abs=3)
        assert max(columns) == pytest.approx(left + 40, abs=3)
    plain, _ = frames(video)
    assert np.abs(shown[0].astype(int) - plain[0]).mean() < 2


def test_where_windows_overlap_the_nearest_speaks_for_each_face():
    marks = Marks([mark(1, 0, 64), mark(1, 32, 96, colour=GREEN), mark(2, 0, 64, colour=GREEN)])
    assert [(m.face, m.colour) for m in marks.at(40)] == [(1, RED), (2, GREEN)]
    assert [(m.face, m.colour) for m in marks.at(56)] == [(1, GREEN), (2, GREEN)]
    assert [m.face for m in marks.at(90)] == [1]
    assert not list(marks.at(110))


def test_every_frame_of_a_window_has_its_mark():
    for start, end in ((0, 64), (7, 71), (0, 16), (0, 9), (3, 4)):
        marks = Marks([mark(1, start, end)])
        missing = [place for place in range(start, end) if not list(marks.at(place))]
        assert not missing, (start, end)


def test_a_turned_video_of_odd_size_comes_out_upright_and_even(tmp_path):
    video = write_video(tmp_path / "a.mp4", grey_ramp(5, height=64, width=90), rotation=90)
    annotate(video, tmp_path / "out.mp4", [mark(1, 0, 5)], **LIMITS)
    shown, _ = frames(tmp_path / "out.mp4")
    assert len(shown) == 5
    assert shown[0].shape == (90, 64, 3)


@pytest.mark.parametrize("box", [(0, 0, 10, 10), (-50, -50, 500, 500), (150, 110, 159, 119)])
def test_a_box_at_the_edge_is_cut_off_and_its_words_stay_inside(box):
    image = np.full((120, 160, 3), 90, np.uint8)
    draw_mark(image, box, "12 abstain (surprise 0.43)", RED)
    reddish = (image == RED).all(axis=2)
    assert reddish.sum() > 500  # what is behind the words
    assert (image == 255).all(axis=2).sum() > 20  # the words


def test_what_is_no_video_is_refused_and_leaves_no_file(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"#EXTM3U\n")
    with pytest.raises(DataError, match="playlist"):
        annotate(tmp_path / "a.mp4", tmp_path / "out.mp4", [], **LIMITS)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_a_full_disk_is_an_error_of_the_system_with_the_name_of_the_file(tmp_path):
    video = write_video(tmp_path / "a.mp4", grey_ramp(5))
    (tmp_path / "out.mp4").mkdir()
    with pytest.raises(OSError, match="directory") as caught:
        annotate(video, tmp_path / "out.mp4", [], **LIMITS)
    assert str(tmp_path) in str(caught.value)
