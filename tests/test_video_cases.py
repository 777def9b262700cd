"""Videos that other people's projects got wrong, as `predict` and `inspect` meet them.

The files are in ../shared/cases/video; what is made here has other values of the same kind.
"""

from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from support import ROOT, drawn_faces, write_at, write_video

from pipeline.faces import locate
from pipeline.pool.pool import Pool
from pipeline.stretch import Survey, survey
from pipeline.video.decode import FEW, Decoder, read_video
from pipeline.video.picture import HDR, INTERLACED, TURNED
from pipeline.windows import SHORT, FaceWindow, Gap, find_windows
from safe.errors import DataError
from safe.params import load_config

CONFIG = load_config(ROOT / "params.yaml")
pytestmark = pytest.mark.usefixtures("unguarded")
both_decoders = pytest.mark.parametrize("decoder", ["decord", "pyav"])


@pytest.fixture
def cases(shared: Path) -> Path:
    return shared / "cases" / "video"


def ask(video: Path, *, window: float = 2.8) -> tuple[list[FaceWindow | Gap], Survey]:
    """Return the windows of a video, and what is known of it, as `predict` has them."""
    films: list[Survey] = []
    items = find_windows(
        video,
        faces=CONFIG.faces,
        shard=CONFIG.shard,
        window=window,
        hop=window / 2,
        who="all",
        on_film=films.append,
        pool=Pool(workers=1, deadline=60, memory=4.0),
    )
    return list(items), films[0]


def faces_of(items: list[FaceWindow | Gap]) -> list[FaceWindow]:
    assert all(isinstance(item, FaceWindow) for item in items)
    return [item for item in items if isinstance(item, FaceWindow)]


def code(frame: NDArray[np.uint8]) -> int:
    """Read the number that eight squares at the bottom of a frame show, the lowest bit left."""
    height, width = frame.shape[:2]
    columns = [b * width // 8 + width // 16 for b in range(8)]
    bits = [frame[height - 10 : height - 5, x - 2 : x + 3].mean() > 127 for x in columns]
    return sum(1 << b for b in range(8) if bits[b])


# Frames


@both_decoders
@pytest.mark.parametrize("name", ["wrong-frames-asp-avi/asp_bframes.avi", "h264-b-avi/obs.avi"])
def test_the_frames_are_those_of_their_places(cases: Path, decoder: Decoder, name: str) -> None:
    clip = read_video(cases / name, decoder=decoder)
    assert [code(frame) for frame in clip.frames] == clip.indices
    assert clip.damage == ""


def test_avi_with_b_frames_is_whole(cases: Path) -> None:
    items, film = ask(cases / "h264-b-avi" / "obs.avi")
    assert film.end == pytest.approx(6.0)
    assert not any("partly missing" in getattr(item, "flags", ()) for item in items)
    assert not any("decoded" in getattr(item, "reason", "") for item in items)


def test_empty_chunks_of_an_avi_repeat_the_frame_before(cases: Path) -> None:
    clip = read_video(cases / "avi-null-frames" / "webcam.avi")
    assert (clip.n_frames, clip.damage) == (50, "")
    assert clip.times[-1] == pytest.approx(clip.indices[-1] * 0.12)
    items, film = ask(cases / "avi-null-frames" / "webcam.avi")
    assert film.end == pytest.approx(5.9, abs=0.1)
    assert max(item.end for item in items) <= film.end + 0.01
    assert not any("decoded" in getattr(item, "reason", "") for item in items)


# Time


def test_no_window_spans_a_pause_of_the_shared_case(cases: Path) -> None:
    items, film = ask(cases / "vfr-pause" / "paused.mp4")
    (pause,) = [item for item in items if "pause" in getattr(item, "reason", "")]
    assert pause.end - pause.start == pytest.approx(60, abs=0.1)
    for item in items:
        assert item is pause or item.end <= pause.start + 0.01 or item.start >= pause.end - 0.01
        assert item is pause or item.end - item.start == pytest.approx(2.8, abs=0.01)
    assert film.end == pytest.approx(66, abs=0.1)


@pytest.mark.parametrize(("name", "pause"), [("a.mp4", 900), ("a.mkv", 7_000)])
def test_a_window_is_so_many_seconds_whatever_the_rate(
    tmp_path: Path, name: str, pause: int
) -> None:
    moments = [40 * i for i in range(50)]  # two seconds at 25, a pause, two at 12.5, the rest short
    moments += [2_000 + pause + 80 * i for i in range(26)]
    moments += [moments[-1] + pause + 40 * i for i in range(1, 14)]
    path = write_at(tmp_path / name, drawn_faces(3, len(moments)), moments)
    items, _ = ask(path, window=1.2)
    pauses = [item for item in items if "pause" in getattr(item, "reason", "")]
    assert [round(gap.end - gap.start, 1) for gap in pauses] == [pause / 1000] * 2
    shown = np.array(moments) / 1000
    for item in items:
        if isinstance(item, FaceWindow):
            assert item.end - item.start == pytest.approx(1.2) or SHORT in item.flags
            centres = item.start + (np.arange(16) + 0.5) * (item.end - item.start) / 16
            expected = np.searchsorted(shown, centres + 1e-4, side="right") - 1
            assert np.abs(np.array(item.indices) - expected).max() <= 0
            assert all(item.end <= gap.start + 0.05 or item.start >= gap.end for gap in pauses)
    assert [SHORT in getattr(item, "flags", ()) for item in items].count(True) == 1


def test_a_late_picture_is_on_the_players_clock(cases: Path) -> None:
    items, film = ask(cases / "picture-starts-late" / "late.mp4")
    assert film.start == pytest.approx(2.0)
    assert items[0].start == pytest.approx(2.0)
    assert items[-1].end == pytest.approx(film.end) == pytest.approx(5.0)


def test_so_is_one_that_is_late_by_another_time(tmp_path: Path) -> None:
    late = 700
    moments = [late + 40 * i for i in range(40)]
    path = write_at(tmp_path / "a.mkv", drawn_faces(3, 40), moments, sound=True)
    items, film = ask(path, window=0.8)
    assert film.start == pytest.approx(late / 1000, abs=0.03)
    assert items[0].start == film.start


@pytest.mark.parametrize(("fps", "few"), [(2, True), (12, False)])
def test_a_window_of_few_frames_is_flagged(tmp_path: Path, fps: int, few: bool) -> None:
    path = write_video(tmp_path / "a.mp4", drawn_faces(3, 6 * fps), fps=fps)
    faces = faces_of(ask(path)[0])
    assert len(faces) > 2
    assert all((FEW in face.flags) == few for face in faces)


def test_a_still_is_flagged(cases: Path, tmp_path: Path) -> None:
    for path in (
        cases / "one-frame" / "one.mp4",
        write_video(tmp_path / "a.mp4", drawn_faces(3, 2)),
    ):
        for face in faces_of(ask(path)[0]):
            assert FEW in face.flags


# Shape and look


@pytest.mark.parametrize(
    ("name", "note"),
    [("hdr-hlg/hlg.mp4", HDR), ("interlaced/camcorder.mp4", INTERLACED), ("hdr-hlg/sdr.mp4", "")],
)
def test_what_was_done_about_a_picture_is_told(cases: Path, name: str, note: str) -> None:
    items = ask(cases / name)[0]
    for item in items:
        assert isinstance(item, Gap) or not note or note in item.flags
    decoded = read_video(cases / name)
    row = locate(decoded, source="video", settings=CONFIG.faces)
    assert (note in row.reason) if note else row.reason == ""


def test_a_face_of_non_square_pixels_has_natural_proportions(cases: Path) -> None:
    decoded = read_video(cases / "non-square-pixels" / "pal_wide.mp4")
    assert (decoded.width, decoded.height) == (512, 288)
    row = locate(decoded, source="video", settings=CONFIG.faces)
    x0, y0, x1, y1 = np.median(np.array(row.box), axis=0)
    assert 1.1 < (y1 - y0) / (x1 - x0) < 1.6  # the same face squeezed: 1.7 and more


def test_a_phone_that_is_turned_keeps_its_face(cases: Path) -> None:
    path = cases / "turned-midway" / "call.webm"
    faces = faces_of(ask(path, window=1.2)[0])
    assert faces[-1].end == pytest.approx(4.0)
    assert any(TURNED in face.flags for face in faces)
    for face in faces:
        width, height = face.boxes[:, 2] - face.boxes[:, 0], face.boxes[:, 3] - face.boxes[:, 1]
        assert (height / width > 1).all()
        assert (height / width < 1.7).all()


# Cuts and small faces


def test_a_cut_ends_a_face_and_is_told(cases: Path) -> None:
    path = cases / "cut-inside" / "film.mp4"
    row = locate(read_video(path), source="video", settings=CONFIG.faces)
    assert row.status == "partial"
    assert "a cut after frame" in row.reason
    faces = faces_of(ask(path)[0])
    assert len({face.face for face in faces}) == 2
    assert any("cut" in face.flags for face in faces)


@pytest.mark.parametrize(("cut", "people"), [(50, (1, 2)), (65, (2, 5))])
def test_two_drawn_people_in_one_place_get_two_numbers(
    tmp_path: Path, cut: int, people: tuple[int, int]
) -> None:
    before, after = (drawn_faces(number, 100) for number in people)
    path = write_video(tmp_path / "a.mp4", np.concatenate([before[:cut], after[cut:]]))
    items = faces_of(ask(path, window=1.2)[0])
    numbers = [
        {item.face for item in items if wholly(item, cut / 25)} for wholly in (_before, _after)
    ]
    assert all(numbers)
    assert not numbers[0] & numbers[1]
    over = [item for item in items if not _before(item, cut / 25) and not _after(item, cut / 25)]
    assert {"cut" in item.flags for item in over} == {True}


def _before(item: FaceWindow, moment: float) -> bool:
    return item.end <= moment + 0.01


def _after(item: FaceWindow, moment: float) -> bool:
    return item.start >= moment - 0.01


def test_a_small_face_is_found(cases: Path) -> None:
    faces = faces_of(ask(cases / "small-face" / "room.mp4")[0])
    assert {face.face for face in faces} == {1}
    height = faces[0].boxes[0, 3] - faces[0].boxes[0, 1]
    assert 40 < height < 110


def test_sound_with_a_cover_is_refused(cases: Path) -> None:
    with pytest.raises(DataError, match="cover picture"):
        ask(cases / "cover-picture" / "podcast.mp4")


def test_which_of_two_pictures_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(path, "w") as container:
        streams = []
        for side in (64, 128):
            stream = container.add_stream("mpeg4", rate=25)
            stream.height = stream.width = side
            stream.pix_fmt = "yuv420p"
            streams.append(stream)
        for _ in range(20):
            for stream in streams:
                pixels = np.full((stream.height, stream.width, 3), 90, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        for stream in streams:
            container.mux(stream.encode())
    film = survey(path)
    assert film.listing.streams == 2
    assert film.size in ((64, 64), (128, 128))
    assert read_video(path).frames.shape[2:0:-1] == film.size


def test_every_shared_case_is_tested(cases: Path) -> None:
    here = "".join(path.read_text() for path in sorted(Path(__file__).parent.glob("test_*.py")))
    assert [case.name for case in sorted(cases.iterdir()) if case.name not in here] == []
