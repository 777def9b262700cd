"""What may be wrong with the picture of a face?

The 16 faces of a window and how they were found go in, words come out: a reason to trust what a
model says of them less.
"""

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.face.track import NEARLY_ALL, Track

FLAGS: Final = ("small", "blurred", "dark", "partly missing", "face lost", "cut")
"""Flags of this file, in the order in which they are given; a window may have others after them."""

_SMALL: Final = 1.0
"""Pixels of the video a stored pixel; below, the face had to be enlarged and has less detail than
the faces that the model was trained on."""

_SHARP: Final = 130.0
"""Variance of the Laplacian at 80 pixels a side. In 45 real clips of sharp faces (shared/videos and
mini_dfew) it was 214 to 938; the same faces blurred by one stored pixel had 26 to 97."""

_SIDE: Final = 80
"""Pixels. A larger face has less detail a pixel: at 128 the same faces had 82 to 506, and 6 to 18
when blurred, so the bound falls with the square of the side."""

_DARK: Final = 40.0
"""Mean luma, with what is around the face; in the same clips 79 to 141, and half of the darkest."""


def measure(faces: NDArray[np.uint8]) -> tuple[float, float]:
    """Measure the faces of a window, uint8 [T, S, S, 3], RGB.

    Returns:
        The sharpness: the variance of the Laplacian of the luma, median over the faces; and the
        mean luma, 0..255.
    """
    luma = [cv2.cvtColor(face, cv2.COLOR_RGB2GRAY) for face in faces]
    sharpness = [cv2.Laplacian(grey, cv2.CV_64F).var() for grey in luma]
    return float(np.median(sharpness)), float(np.mean(luma))


def find_flags(
    faces: NDArray[np.uint8], track: Track, *, side: float, damaged: bool
) -> tuple[str, ...]:
    """Say what may be wrong with the faces of one window.

    A face that comes late, goes early, is lost for longer than a gap may be, or is seen in less
    than three quarters of the frames is partly missing. One that is not in the last frame is lost:
    the detector missed none of the 2,240 faces in frames of ../shared, and none of 2,445 that were
    blurred, dimmed, noisy, shrunk to 10 % of the frame or badly compressed. One that shares its
    frames with another person's, or another scene, has a cut.

    Args:
        faces: uint8 [T, S, S, 3], RGB, as they are stored but for the JPEG.
        track: where they were found.
        side: pixels of the video that became the S pixels of a face.
        damaged: whether some of the frames could not be decoded, or with errors only.
    """
    sharpness, luma = measure(faces)
    size = faces.shape[1]
    rare = track.detected.mean() < NEARLY_ALL
    holds = (
        side < _SMALL * size,
        sharpness < _SHARP * (_SIDE / size) ** 2,
        luma < _DARK,
        damaged or rare or bool(track.held.any()),
        not track.detected[-1],
        bool(track.cuts),
    )
    return tuple(flag for flag, held in zip(FLAGS, holds, strict=True) if held)
