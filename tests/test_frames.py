"""Which frames of a folder stand for it: the right ones in time, and what is missing is told?"""

import os
import random
import shutil
import struct
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import ROOT, grey_ramp, write_manifest

from pipeline.face.table import read_faces
from pipeline.faces import find_faces
from pipeline.pool.pool import Pool
from pipeline.video.decode import Decoded, frame_indices
from pipeline.video.frames import place_frames, read_clip, read_frames
from safe.errors import DataError
from safe.params import load_config


def write_frames(folder: Path, frames: np.ndarray, names: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in zip(names, frames, strict=True):
        (folder / name).write_bytes(cv2.imencode(Path(name).suffix, frame[..., ::-1])[1])


def levels(clip: Decoded) -> list[int]:
    """The grey of each frame."""
    return clip.frames[:, 0, 0, 0].tolist()


# Whole folders


def test_frames_are_read_in_natural_order_as_rgb(tmp_path: Path) -> None:
    frames = grey_ramp(40)
    frames[..., 2] = 0  # no blue
    write_frames(tmp_path / "clip", frames, [f"{i}.png" for i in range(1, 41)])
    (tmp_path / "clip" / "readme.txt").write_text("no frame")
    clip = read_clip(tmp_path / "clip", "frames")
    assert clip.indices == frame_indices(40)
    np.testing.assert_array_equal(clip.frames, frames[clip.indices])
    assert (clip.n_frames, clip.fps, clip.width, clip.height, clip.damage) == (40, 0, 64, 48, "")


@pytest.mark.parametrize(
    "names",
    [
        [f"00001_{i:05d}.png" for i in range(1, 21)],
        [f"frame-{i}.PNG" for i in range(3, 23)],
        [f"IMG_20240101_{i}.png" for i in range(20)],
        [f"{5 * i}.png" for i in range(20)],  # every fifth frame of a video
        [f"{i / 4:g}.png" for i in range(20)],  # 0.5 and 0.75 and 1
        [f"{i / 8}.png" for i in range(20)],  # 0.125 and 1.0
        [f"at {i / 25:.2f} s.png" for i in range(20)],
        [f"{i / 4:g}".replace(".", ",") + ".png" for i in range(20)],
        [f"{round(1000 * i / 30)}.png" for i in range(20)],  # ms, which are 33 or 34 apart
        [f"{i / 60:.2f}.png" for i in range(20)],  # s, 0.01 or 0.02 apart
        [f"clip.{i}.png" for i in range(8, 28)],
        [f"v2.{i}.png" for i in range(1, 21)],  # 2.10 is no 2.1
        [f"10.30.{i:02d}.png" for i in range(20)],
        [f"frame{i} at {i / 30:.3f}.png" for i in range(20)],
        [f"²{i}.png" for i in range(20)],  # no digit, though Python calls it one
        [f"{i}.png".translate({48 + n: 0x660 + n for n in range(10)}) for i in range(20)],
        [f"{chr(97 + i)}.png" for i in range(20)],
        [f"{i}.png" if i % 2 else f"{i:03d}.png" for i in range(20)],
    ],
    ids=lambda names: names[9],
)
def test_each_way_to_name_frames_is_their_order_in_time_without_a_gap(
    tmp_path: Path, names: list[str]
) -> None:
    ramp = grey_ramp(20, height=8, width=8)
    write_frames(tmp_path, ramp, names)
    clip = read_frames(tmp_path)
    assert (clip.n_frames, clip.damage) == (20, "")
    assert levels(clip) == ramp[frame_indices(20), 0, 0, 0].tolist()


@given(
    st.lists(st.integers(0, 400), min_size=2, max_size=40, unique=True),
    st.sampled_from(["{:05d}.jpg", "{}.jpg", "a-{}.png"]),
    st.integers(1, 40),
    st.randoms(use_true_random=False),
)
def test_numbers_are_positions_whatever_their_step(
    numbers: list[int], form: str, step: int, rng: random.Random
) -> None:
    numbers = sorted({0, 1, 2, 3, *(3 + n for n in numbers)})  # so that the step can be seen
    numbers = [n for n in numbers if n < 4 * len(numbers)]  # most are no more than 4 apart
    names = [form.format(7 + step * number) for number in numbers]
    shuffled = rng.sample(names, len(names))
    assert place_frames(shuffled) == (names, numbers)


# What is missing


def test_apple_double_files_are_no_frames(shared: Path) -> None:
    folder = shared / "cases" / "video" / "apple-double-files"
    for name in ("clip01", "clip02"):
        clip = read_frames(folder / name)
        assert (clip.n_frames, clip.damage) == (32, "")
        assert clip.indices == frame_indices(32)


def test_frames_named_by_second_are_read_in_the_order_of_time(shared: Path) -> None:
    folder = shared / "cases" / "video" / "frames-named-by-second" / "clip01"
    clip = read_frames(folder)
    for number, frame in zip(clip.indices, clip.frames, strict=True):
        expected = cv2.imread(str(folder / f"{number / 4:g}.jpg"))[..., ::-1]
        np.testing.assert_array_equal(frame, expected)
    assert (clip.indices, clip.damage) == (list(range(16)), "")


@pytest.mark.parametrize(
    ("numbers", "step"), [(range(1, 44), 1), (range(0, 215, 5), 5), (range(40, 1760, 40), 40)]
)
def test_a_gap_in_the_numbers_is_missing_time_and_is_told(
    tmp_path: Path, numbers: range, step: int
) -> None:
    ramp = grey_ramp(len(numbers), height=8, width=8)
    gone = {6, 17, 18, 19, 20}  # positions, 43 or 44 of them in all
    for place, number in enumerate(numbers):
        if place not in gone:
            write_frames(tmp_path, ramp[place : place + 1], [f"00001_{number:05d}.png"])
    clip = read_frames(tmp_path)
    assert clip.indices == frame_indices(len(numbers))
    stand_in = {6: 5, 17: 16, 18: 16, 19: 21, 20: 21}
    expected = [stand_in.get(index, index) for index in clip.indices]
    assert levels(clip) == ramp[expected, 0, 0, 0].tolist()
    lost = sum(index in gone for index in clip.indices)
    assert 1 < lost < 4
    assert clip.damage == (
        f"{16 - lost} of 16 frames decoded, {lost} repeated from the nearest; "
        f"5 of {len(numbers)} numbered frames are not there"
    )


def test_numbers_without_a_step_are_an_order_and_that_is_told(tmp_path: Path) -> None:
    names = [f"{number}.png" for number in (3, 13, 57, 80, 145)]
    write_frames(tmp_path, grey_ramp(5, height=8, width=8), names)
    clip = read_frames(tmp_path)
    assert clip.indices == frame_indices(5)
    assert clip.damage == "numbers of the frames have no common step: taken in their order"


def test_numbers_over_a_time_that_no_clip_has_are_refused(tmp_path: Path) -> None:
    names = [f"{number}.png" for number in (1, 2, 20240101)]
    write_frames(tmp_path, grey_ramp(3, height=8, width=8), names)
    with pytest.raises(DataError, match=r"numbered over more than 100,000: too long for a clip"):
        read_frames(tmp_path)


def spoil(file: Path, how: str) -> None:
    file.unlink()
    if how == "folder":
        file.mkdir()
    elif how == "dangling":
        file.symlink_to("nowhere.png")
    elif how == "itself":
        file.symlink_to(file.name)
    elif how == "endless":
        file.symlink_to("/dev/zero")
    elif how == "pipe":
        os.mkfifo(file)
    elif how == "too long":
        file.symlink_to("x" * 300)
    elif how == "empty":
        file.touch()
    else:
        file.write_bytes(b"no image")


HOW = ("folder", "dangling", "itself", "endless", "pipe", "too long", "empty", "damaged")


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("place", [0, 5, 15])
def test_what_is_no_image_costs_its_frame(tmp_path: Path, how: str, place: int) -> None:
    ramp = grey_ramp(16, height=8, width=8)
    write_frames(tmp_path, ramp, [f"{i:05d}.png" for i in range(1, 17)])
    spoil(tmp_path / f"{place + 1:05d}.png", how)
    clip = read_frames(tmp_path)
    assert clip.damage == "15 of 16 frames decoded, 1 repeated from the nearest"
    expected = [*range(16)]
    expected[place] = max(place - 1, 0) or 1 - (place > 0)
    assert levels(clip) == ramp[expected, 0, 0, 0].tolist()
    assert (clip.indices, clip.n_frames) == (list(range(16)), 16)


def test_the_stage_goes_on_after_such_a_clip(tmp_path: Path) -> None:
    clips = []
    for name in ("a_good", *HOW, "none"):
        folder = tmp_path / "root" / name
        write_frames(folder, grey_ramp(16, height=8, width=8), [f"{i}.png" for i in range(16)])
        clips.append((name.replace(" ", "-"), name))
        if name in HOW:
            spoil(folder / "15.png", name)
            (folder / "._3.png").write_bytes(b"\0\5\x16\7Mac OS X")
    shutil.rmtree(folder)
    manifest = write_manifest(tmp_path / "m.parquet", sorted(clips), "frames", never=["none"])
    out = tmp_path / "faces.parquet"
    settings = load_config(ROOT / "params.yaml").faces
    counts = find_faces(
        manifest, tmp_path / "root", out, settings=settings, pool=Pool(workers=1, deadline=30)
    )
    assert counts == {"ok": 1, "partial": len(HOW), "missing": 0, "error": 1}
    rows = {row["clip"]: row for row in read_faces(out).to_pylist()}
    assert (rows["a_good"]["status"], rows["none"]["reason"]) == ("ok", "folder missing")
    told = {row["reason"] for key, row in rows.items() if key not in ("a_good", "none")}
    assert told == {"15 of 16 frames decoded, 1 repeated from the nearest"}


# What kind of image

KINDS = (".jpg", "progressive", ".png", "16 bits", ".bmp", ".webp", "lossless", "alpha")


def encode(image: np.ndarray, kind: str) -> bytes:
    """Encode an image, BGR."""
    options = [cv2.IMWRITE_WEBP_QUALITY, 101 if kind == "lossless" else 80]
    if kind == "progressive":
        options = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]
    if kind == "alpha":
        image = np.dstack([image, np.full(image.shape[:2], 90, np.uint8)])
    if kind == "16 bits":
        image = image.astype(np.uint16) * 257
    ending = {"progressive": ".jpg", "lossless": ".webp", "alpha": ".webp", "16 bits": ".png"}
    return cv2.imencode(ending.get(kind, kind), image, options)[1].tobytes()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (17, 300), (301, 16)])
def test_content_decides_which_image_a_frame_is(tmp_path: Path, kind: str, size) -> None:
    image = np.full((*size, 3), 200, np.uint8)
    (tmp_path / "1.jpg").write_bytes(encode(image, kind))
    clip = read_frames(tmp_path)
    assert (clip.height, clip.width, clip.damage) == (*size, "")
    assert np.abs(clip.frames.astype(int) - 200).max() < 5


@pytest.mark.parametrize("kind", [".tiff", ".jp2", ".hdr", ".ppm", ".gif", ".avif", ".ras"])
def test_other_images_are_no_frames_whatever_their_name(tmp_path: Path, kind: str) -> None:
    if not cv2.haveImageWriter(f"a{kind}"):
        pytest.skip("this OpenCV writes none")
    image = np.full((64, 64, 3), 200, np.float32 if kind == ".hdr" else np.uint8)
    (tmp_path / "1.jpg").write_bytes(encode(image, kind))
    with pytest.raises(DataError, match="no frame could be decoded: not an image of a kind"):
        read_frames(tmp_path)


# Of each kind: how its header writes a side, and how many bytes before width and height.
SIDES = {
    ".jpg": (">H", None), "progressive": (">H", None), ".png": (">I", 16), "16 bits": (">I", 16),
    ".bmp": ("<i", 18), ".webp": ("<H", 26), "lossless": ("bits", 21), "alpha": ("<I", 24),
}  # fmt: skip


def claim(good: bytes, kind: str, width: int, height: int) -> bytes:
    """Let the header of an image claim another size."""
    form, at = SIDES[kind]
    if at is None:
        at = good.index(b"\xff\xc0" if kind == ".jpg" else b"\xff\xc2") + 5
        width, height = height, width
    if form == "bits":
        new = (width - 1 | (height - 1) << 14).to_bytes(4, "little")
    elif kind == "alpha":
        new = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    else:
        new = struct.pack(f"{form[0]}2{form[1]}", width, height)
    return good[:at] + new + good[at + len(new) :]


@pytest.mark.parametrize("kind", KINDS)
def test_a_header_that_claims_too_much_costs_its_frame_before_any_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    good = encode(np.full((77, 99, 3), 200, np.uint8), kind)
    assert claim(good, kind, 99, 77) == good
    most = 16383 if kind in (".webp", "lossless") else 65535
    ramp = grey_ramp(16, height=8, width=8)
    write_frames(tmp_path, ramp, [f"{number:02}.png" for number in range(16)])
    (tmp_path / "alone").mkdir()
    for width, height in ((4097, 4096), (most, most), (1, 0) if kind == ".png" else (most, 9999)):
        for file in (tmp_path / "05.png", tmp_path / "alone" / "1.png"):
            file.write_bytes(claim(good, kind, width, height))
        told = read_frames(tmp_path).damage
        assert told == "15 of 16 frames decoded, 1 repeated from the nearest"
        with monkeypatch.context() as patch:
            patch.setattr(cv2, "imdecode", None)  # it is not reached
            with pytest.raises(DataError, match="too large"):
                read_frames(tmp_path / "alone")


def test_a_file_that_says_65535_pixels_a_side_and_one_named_by_no_digit(shared: Path) -> None:
    attacks = shared / "cases" / "attacks"
    with pytest.raises(DataError, match="65535 x 65535 pixels"):
        read_frames(attacks / "frames-huge-header")
    assert read_frames(attacks / "frames-digit-name").n_frames == 1


@pytest.mark.parametrize(
    "names",
    [
        ("²1.png", "1.png", "①.png"), ("①.png", "②.png"), ("²1.png", "²2.png", "²10.png"),
        ("1².png", "2².png", "٣.png"), ("\uff19.png", "10.png"), ("1.1.1.png", "1.5.png", "1.png"),
        ("9" * 200 + ".png", "1.png"), ("½.png", "Ⅷ.png", "八.png"), ("-1.png", "+2.png"),
    ],
)  # fmt: skip
def test_no_name_of_a_frame_is_too_strange(tmp_path: Path, names: tuple[str, ...]) -> None:
    write_frames(tmp_path, grey_ramp(len(names), height=8, width=8), list(names))
    (tmp_path / "5a.jpg").mkdir()
    with suppress(DataError):  # some have numbers too far apart
        assert read_frames(tmp_path).frames.shape == (16, 8, 8, 3)


def test_frames_of_another_size_are_resized_and_damaged_ones_told(tmp_path: Path) -> None:
    frames = grey_ramp(16)
    write_frames(tmp_path / "clip", frames, [f"00001_{i:05d}.png" for i in range(1, 17)])
    cv2.imwrite(str(tmp_path / "clip/00001_00004.png"), frames[3, :20, :30])
    (tmp_path / "clip/00001_00006.png").write_bytes(b"no image")
    (tmp_path / "clip/00001_00016.png").write_bytes(b"")
    clip = read_frames(tmp_path / "clip")
    expected = frames[[0, 1, 2, 3, 4, 4, *range(6, 15), 14]]
    np.testing.assert_array_equal(clip.frames, expected)
    assert clip.damage == "14 of 16 frames decoded, 2 repeated from the nearest"


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (None, "folder missing"),
        ([], "no jpg or png"),
        (["._1.jpg", ".2.png"], "no jpg or png"),
        (["1.jpg"], "no frame could be decoded"),
    ],
)
def test_folder_without_frames(tmp_path: Path, names: list[str] | None, reason: str) -> None:
    folder = tmp_path / "clip"
    if names is not None:
        folder.mkdir()
        for name in names:
            (folder / name).write_bytes(b"no image")
    with pytest.raises(DataError, match=reason):
        read_frames(folder)


def test_a_folder_that_may_not_be_read_is_an_error_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid():
        pytest.skip("only root can become someone else")
    write_frames(tmp_path / "clip", grey_ramp(1), ["1.png"])
    (tmp_path / "clip").chmod(0o700)
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)  # the folders above are not for everyone
    os.seteuid(65534)
    try:
        with pytest.raises(PermissionError):
            read_frames(Path("clip"))
    finally:
        os.seteuid(0)
