"""Crops: the square faces of a clip, centred frame by frame, never stretched, all at one scale."""

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.face.table import ClipFaces
from pipeline.video.decode import Decoded, Source
from safe.config import Shard
from safe.sample import encode_strip

CROP_RULE: Final = "square-median-side-1"
"""Name of this file's rule in the preprocessing id; to be changed when other pixels come out."""


def crop_faces(
    frames: NDArray[np.uint8], boxes: NDArray[np.float32], *, size: int, margin: float
) -> NDArray[np.uint8]:
    """Cut the face out of every frame of a clip.

    The square is centred on each frame's box, to a fraction of a pixel. Its side is the same in
    all frames: the median over the clip of the longer side of the box, plus the margins. A face's
    box grows when the mouth opens; a side that followed it would shrink the face just then and hide
    the expression. Beyond the frame its border pixels repeat.

    Args:
        frames: uint8 [T, H, W, 3], RGB, upright.
        boxes: [T, 4]: x0, y0, x1, y1, pixels of the frame; pixel i reaches from i to i + 1.
        size: pixels, the side of a returned face.
        margin: of the box's longer side, added on each of its sides.

    Returns:
        uint8 [T, size, size, 3], RGB.
    """
    corners = boxes.astype(np.float64)
    # Pixel i has its centre at i for OpenCV and at i + 1/2 for boxes.
    centres = (corners[:, :2] + corners[:, 2:]) / 2 - 0.5
    side = crop_side(boxes, margin=margin)
    faces = np.empty((len(frames), size, size, 3), dtype=np.uint8)
    method = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
    for face, frame, (x, y) in zip(faces, frames, centres, strict=True):
        patch = cv2.getRectSubPix(frame, (side, side), (x, y))  # repeats the border
        face[:] = cv2.resize(patch, (size, size), interpolation=method)
    return faces


def crop_side(boxes: NDArray[np.float32], *, margin: float) -> int:
    """Return the side of the square that crop_faces cuts out, in pixels of the frames."""
    corners = boxes.astype(np.float64)
    longer = (corners[:, 2:] - corners[:, :2]).max(axis=1)
    return max(1, round(float(np.median(longer)) * (1 + 2 * margin)))


def centre_square(height: int, width: int) -> tuple[float, float, float, float]:
    """Return the box (x0, y0, x1, y1) of the largest square in the middle of a frame."""
    side = min(height, width)
    x0, y0 = (width - side) / 2, (height - side) / 2
    return x0, y0, x0 + side, y0 + side


def make_strip(decoded: Decoded, face: ClipFaces, *, source: Source, settings: Shard) -> bytes:
    """Return the faces of a decoded clip as one JPEG, below one another."""
    faces = cut_faces(decoded, face, source=source, settings=settings)
    return encode_strip(faces, settings.quality, settings.chroma)


def cut_faces(
    decoded: Decoded, face: ClipFaces, *, source: Source, settings: Shard
) -> NDArray[np.uint8]:
    """Cut the faces of a decoded clip out: uint8 [T, size, size, 3], RGB.

    Only a box round a detected face gets a margin: a centre square and a release's own crop do not.
    """
    has_face_box = source == "video" and face.status != "missing"
    boxes = np.array(face.box, dtype=np.float32)
    margin = settings.margin if has_face_box else 0.0
    return crop_faces(decoded.frames, boxes, size=settings.size, margin=margin)
