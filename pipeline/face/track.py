"""Which detections are the one face of the clip?

The detections of every frame go in, one box a frame comes out: detections are linked into tracks,
the largest and longest track is chosen, its gaps are filled, its boxes smoothed. Geometry alone
decides. Who wants every face of the clip gets all tracks, by the same rules.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

TRACK_RULE: Final = "largest-longest-1"
"""Name of this file's rule in the preprocessing id; to be changed when other boxes come out."""

# The 16 frames may lie 50 source frames apart, so a face may move far between two of them; but two
# heads beside one another are hardly nearer than one face, so farther may be another person.
_REACH = 1.0  # face sizes between the centres of one face in two frames
_REACH_AFTER_LOSS = 0.5  # the same when the face was lost for longer than max_gap frames
_RESIZE = 2.0  # ratio of the sizes of one face in two frames
# A step this large is a cut or a fast move: smoothing over it would place both sides wrongly.
_CUT_STEP = 0.5  # face sizes
_CUT_RESIZE = 1.5  # ratio


@dataclass(frozen=True)
class Track:
    """One face of a clip, frame by frame."""

    boxes: NDArray[np.float32]
    """[T, 4]: x0, y0, x1, y1 in pixels, smoothed; every frame has one."""
    scores: NDArray[np.float32]
    """[T]: of the detection, 0 to 1; 0 where the frame has none or was not looked at."""
    detected: NDArray[np.bool_]
    """[T]: whether the frame has a detection of this face, or was not looked at."""
    held: NDArray[np.bool_]
    """[T]: whether the box is a guess: in a gap longer than max_gap, or farther from the track."""


def choose_track(
    detections: list[NDArray[np.float32]], *, max_gap: int, smooth: float
) -> Track | None:
    """Choose the face of a clip and give it a box in every frame.

    The face is the track with the largest sum, over its frames, of the square root of its area:
    large and long, long counting more. Gaps of at most `max_gap` frames are interpolated; in longer
    gaps, and before and after the track, the nearest box holds.

    Args:
        detections: for each of the T frames float32 [N, 5]: x0, y0, x1, y1, score; N may be 0. The
            score is 0 in a frame that was not looked at (look.py), else above 0.
        max_gap: frames, the longest gap that is interpolated.
        smooth: frames, the sigma of the Gaussian over the boxes; 0 leaves them as they are.

    Returns:
        The track, or None if no frame has a detection.
    """
    tracks = _largest_first(detections, max_gap)
    return _follow(tracks[0], detections, max_gap=max_gap, smooth=smooth) if tracks else None


def all_tracks(
    detections: list[NDArray[np.float32]], *, max_gap: int, smooth: float
) -> list[Track]:
    """Give every face of a clip a box in every frame; the one that choose_track chooses first.

    Arguments and rules are those of choose_track.
    """
    tracks = _largest_first(detections, max_gap)
    return [_follow(track, detections, max_gap=max_gap, smooth=smooth) for track in tracks]


def _largest_first(detections: list[NDArray[np.float32]], max_gap: int) -> list[dict[int, int]]:
    """Link detections into tracks, the chosen one first; of equal ones the older."""
    return sorted(
        link(detections, max_gap=max_gap),
        key=lambda track: -sum(box_size(detections[t][i, :4]) for t, i in track.items()),
    )


def _follow(
    track: dict[int, int],
    detections: list[NDArray[np.float32]],
    *,
    max_gap: int,
    smooth: float,
) -> Track:
    """Fill the gaps of a track, {frame: index of its detection there}, and smooth its boxes."""
    known = np.array(sorted(track))
    faces = np.stack([detections[t][track[t]] for t in known]).astype(np.float64)
    boxes, held = _fill(known, faces[:, :4], len(detections), max_gap=max_gap)
    scores = np.zeros(len(detections), dtype=np.float32)
    scores[known] = faces[:, 4]
    detected = np.isin(np.arange(len(detections)), known)
    return Track(
        boxes=smooth_boxes(boxes, sigma=smooth).astype(np.float32),
        scores=scores,
        detected=detected,
        held=held,
    )


def link(detections: list[NDArray[np.float32]], *, max_gap: int) -> list[dict[int, int]]:
    """Link detections of one face over the frames, the nearest pairs first.

    Returns:
        The tracks, each {frame: index of its detection in that frame}, in order of appearance. A
        detection is in exactly one of them.
    """
    tracks: list[dict[int, int]] = []
    ends: list[tuple[int, NDArray[np.float32]]] = []  # of every track: its last frame and box
    for t, found in enumerate(detections):
        pairs = []
        for k, (last, box) in enumerate(ends):
            for i, candidate in enumerate(found):
                step = step_within_reach(box, candidate[:4], lost=t - last - 1, max_gap=max_gap)
                if step is not None:
                    pairs.append((step, k, i))
        free = set(range(len(found)))
        open_tracks = set(range(len(tracks)))
        for _, k, i in sorted(pairs):
            if k in open_tracks and i in free:
                open_tracks.remove(k)
                free.remove(i)
                tracks[k][t] = i
                ends[k] = (t, found[i, :4])
        for i in sorted(free):
            tracks.append({t: i})
            ends.append((t, found[i, :4]))
    return tracks


def step_within_reach(
    before: NDArray[np.float32], after: NDArray[np.float32], *, lost: float, max_gap: int
) -> float | None:
    """Return how far a face moved, in face sizes; None if it can hardly be the same face.

    Args:
        before: its box [4].
        after: the next box [4] that may be its.
        lost: frames between the two.
        max_gap: frames, the longest gap after which a face may be as far as without one.
    """
    step, ratio = box_change(before, after)
    reach = _REACH if lost <= max_gap else _REACH_AFTER_LOSS
    return step if step <= reach and ratio <= _RESIZE else None


def box_size(box: NDArray[np.float32]) -> float:
    """Return the size of a face: the square root of the area of its box [4], in pixels."""
    return float(np.sqrt((box[2] - box[0]) * (box[3] - box[1])))


def box_change(a: NDArray[np.float32], b: NDArray[np.float32]) -> tuple[float, float]:
    """Return the distance of two boxes' centres in face sizes, and the ratio of their sizes."""
    size_a, size_b = box_size(a), box_size(b)
    step = np.hypot(*((a[:2] + a[2:] - b[:2] - b[2:]) / 2)) / ((size_a + size_b) / 2)
    return float(step), max(size_a / size_b, size_b / size_a)


def _fill(
    known: NDArray[np.int64], faces: NDArray[np.float64], count: int, *, max_gap: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Give every one of `count` frames a box; say which are held farther than a gap may be.

    Args:
        known: [M], frames with a detection, ascending.
        faces: [M, 4], their boxes.
        count: T, frames of the clip.
        max_gap: frames, the longest gap that is interpolated.

    Returns:
        boxes [T, 4], and held [T].
    """
    frames = np.arange(count)
    boxes = np.stack([np.interp(frames, known, side) for side in faces.T], axis=1)
    distance = np.abs(frames[:, None] - known)
    held = distance.min(axis=1) > max_gap
    for before, after in pairwise(known.tolist()):
        if after - before - 1 > max_gap:
            held[before + 1 : after] = True
            gap = frames[before + 1 : after]
            boxes[gap] = faces[distance[gap].argmin(axis=1)]  # of two as near, the earlier
    return boxes, held


def smooth_boxes(boxes: NDArray[np.float64], *, sigma: float) -> NDArray[np.float64]:
    """Smooth boxes [T, 4] over time by a Gaussian of `sigma` frames.

    At the ends, and at cuts, the weights of the frames on this side are scaled to sum to 1.
    """
    if sigma == 0:
        return boxes
    steps = [box_change(a, b) for a, b in pairwise(boxes)]
    cuts = [step > _CUT_STEP or ratio > _CUT_RESIZE for step, ratio in steps]
    shot = np.cumsum([0, *cuts])
    frames = np.arange(len(boxes))
    weights = np.exp(-0.5 * ((frames[:, None] - frames) / sigma) ** 2)
    weights *= shot[:, None] == shot
    smoothed: NDArray[np.float64] = weights @ boxes / weights.sum(axis=1, keepdims=True)
    return smoothed
