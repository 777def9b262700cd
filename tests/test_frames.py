"""Which frames of a folder stand for it: the right ones in time, and what is missing is told?"""

import os
import random
import shutil
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
