"""Are crops where the box is, square, never stretched, at one scale?"""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.face.crop import centre_square, crop_faces


def gradient(height: int, width: int) -> NDArray[np.uint8]:
    """Return [1, H, W, 3]: red is the column, green the row."""
    frame = np.zeros((1, height, width, 3), dtype=np.uint8)
    frame[..., 0] = np.arange(width)
    frame[..., 1] = np.arange(height)[:, None]
    return frame


def crop_one(
    frames: NDArray[np.uint8], box: tuple[float, ...], *, size: int, margin: float = 0.0
) -> NDArray[np.uint8]:
    boxes = np.array([box] * len(frames), dtype=np.float32)
    faces = crop_faces(frames, boxes, size=size, margin=margin)
    assert faces.shape == (len(frames), size, size, 3)
    assert faces.dtype == np.uint8
    return faces[0]


def test_whole_pixels_at_scale_one_are_copied() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (1, 60, 90, 3), dtype=np.uint8)
    np.testing.assert_array_equal(crop_one(frame, (13, 7, 45, 39), size=32), frame[0, 7:39, 13:45])


@settings(max_examples=80, deadline=None)
@given(
    st.floats(10, 230), st.floats(10, 190), st.floats(8, 180), st.floats(0.3, 3), st.floats(0, 1),
    st.sampled_from([16, 48, 80]),
)  # fmt: skip
def test_geometry_within_a_pixel(
    x: float, y: float, width: float, aspect: float, margin: float, size: int
) -> None:
    """A pixel's colours say where it came from; clipped coordinates are the replicated border."""
    height = width * aspect
    box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    face = crop_one(gradient(200, 240), box, size=size, margin=margin).astype(float)
    side = max(width, height) * (1 + 2 * margin)
    offsets = ((np.arange(size) + 0.5) / size - 0.5) * side - 0.5
    columns = np.broadcast_to((x + offsets).clip(0, 239), (size, size))
    rows = np.broadcast_to((y + offsets).clip(0, 199)[:, None], (size, size))
    # the side is rounded, colours are rounded, and the corner where the border starts is soft
    tolerance = 1.5 + 0.5 * side / size
    np.testing.assert_allclose(face[..., 0], columns, atol=tolerance)
    np.testing.assert_allclose(face[..., 1], rows, atol=tolerance)
    assert abs(np.mean(face[..., 0] - columns)) < 1
    assert abs(np.mean(face[..., 1] - rows)) < 1


def test_border_is_replicated() -> None:
    face = crop_one(gradient(50, 70), (-20, 10, 20, 50), size=40)
    assert (face[:, :20, 0] == 0).all()
    assert face[5, 20:, 0].tolist() == list(range(20))
    face = crop_one(gradient(50, 70), (50, 30, 90, 70), size=40)
    assert (face[:, 20:, 0] == 69).all()
    assert (face[20:, :, 1] == 49).all()


@pytest.mark.parametrize("box", [(60, 30, 140, 110), (70, 20, 130, 120), (90, 60, 110, 80)])
def test_a_circle_stays_a_circle(box: tuple[float, ...]) -> None:
    frame = np.zeros((1, 140, 200, 3), dtype=np.uint8)
    cv2.circle(frame[0], (100, 70), 25, (255, 255, 255), thickness=-1)
    face = crop_one(frame, box, size=96, margin=1.0)[..., 0] > 127
    rows, columns = np.flatnonzero(face.any(axis=1)), np.flatnonzero(face.any(axis=0))
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert abs(height - width) <= 1
    scale = 96 / (3 * max(box[2] - box[0], box[3] - box[1]))
    assert width == pytest.approx(51 * scale, abs=1.5)
    assert rows.mean() == pytest.approx(47.5 + scale / 2, abs=1)
    assert columns.mean() == pytest.approx(47.5 + scale / 2, abs=1)


def test_one_scale_over_the_clip_whatever_the_box_does() -> None:
    """A mouth that opens makes the box taller; the face must not shrink for it."""
    frames = np.repeat(gradient(200, 200), 3, axis=0)
    heights = np.array([60, 60, 90])
    boxes = np.stack([[80, 100 - h / 2, 120, 100 + h / 2] for h in heights]).astype(np.float32)
    faces = crop_faces(frames, boxes, size=60, margin=0)
    np.testing.assert_array_equal(faces[0], faces[2])
    assert faces[2, :, 0, 1].tolist() == list(range(70, 130))


def test_a_face_that_moves_stays_in_the_middle() -> None:
    frames = np.zeros((8, 100, 160, 3), dtype=np.uint8)
    centres = 40 + 9.3 * np.arange(8)
    for frame, x in zip(frames, centres, strict=True):
        frame[40:60, round(x) - 10 : round(x) + 10] = 255
    boxes = np.stack([[x - 10, 40, x + 10, 60] for x in centres]).astype(np.float32)
    faces = crop_faces(frames, boxes, size=40, margin=0.5)[..., 0].astype(float)
    middle = (faces * (np.arange(40) + 0.5)).sum(axis=(1, 2)) / faces.sum(axis=(1, 2))
    np.testing.assert_allclose(middle, 20, atol=0.6)


def test_shrinking_averages_and_does_not_alias() -> None:
    checkers = ((np.indices((128, 128)).sum(axis=0) % 2) * 255).astype(np.uint8)
    frame = np.repeat(checkers[None, ..., None], 3, axis=-1)
    face = crop_one(frame, (0, 0, 128, 128), size=32)
    assert abs(face.astype(int) - 127.5).max() <= 1


def test_a_release_crop_is_padded_to_a_square() -> None:
    face = crop_one(gradient(40, 64), (0, 0, 64, 40), size=64)
    assert face[32, :, 0].tolist() == list(range(64))
    assert face[:, 0, 1].tolist() == [0] * 12 + list(range(40)) + [39] * 12


def test_centre_square() -> None:
    assert centre_square(100, 200) == (50, 0, 150, 100)
    assert centre_square(201, 100) == (0, 50.5, 100, 150.5)
