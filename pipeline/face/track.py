"""Tracks: the detections of one face through a clip, and the one track that stands for it.

In: the detections of every frame. Out: one box a frame: detections are linked into tracks, the
largest and longest is chosen, its gaps are filled, its boxes smoothed. Geometry decides, but for
one thing: a face that looks like another person's (portrait.py) is not linked to it, however near
it is, so no track goes on over a cut. Who wants every face of the clip gets all.
"""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.face.portrait import FAR, Picture, Portraits

TRACK_RULE: Final = "largest-longest-2"
"""Name of this file's rule in the preprocessing id; to be changed when other boxes come out."""

# The 16 frames may lie 50 source frames apart, so a face may move far between two of them; but two
# heads beside one another are hardly nearer than one face, so farther may be another person.
_REACH = 1.0  # face sizes between the centres of one face in two frames
_REACH_AFTER_LOSS = 0.5  # the same when the face was lost for longer than max_gap frames
_RESIZE = 2.0  # ratio of the sizes of one face in two frames
# A step this large is a fast move: smoothing over it would place both sides wrongly.
_JUMP_STEP = 0.5  # face sizes
_JUMP_RESIZE = 1.5  # ratio
_FADE = 6
"""Detections that a face is compared over: so a fade from one person to another ends a track."""

NEARLY_ALL: Final = 0.75
"""Share of a clip's frames that must show a face for it to count as being there."""


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
    """[T]: whether the box is a guess: before the first detection, after the last, or in a gap
    longer than max_gap."""
    cuts: tuple[int, ...] = ()
    """Frames, of 1..T - 1, that show another person in this one's place, or another scene."""
    ends: tuple[Picture, Picture] | None = None
    """How the face looks in its first and its last detection; None where no frames were given."""


def choose_track(
    detections: list[NDArray[np.float32]],
    *,
    max_gap: int,
    smooth: float,
    frames: NDArray[np.uint8] | None = None,
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
        frames: the pictures, uint8 [T, H, W, 3]. Without them cuts go unseen.

    Returns:
        The track, or None if no frame has a detection.
    """
    tracks = all_tracks(detections, max_gap=max_gap, smooth=smooth, frames=frames)
    return tracks[0] if tracks else None


def all_tracks(
    detections: list[NDArray[np.float32]],
    *,
    max_gap: int,
    smooth: float,
    frames: NDArray[np.uint8] | None = None,
) -> list[Track]:
    """Give every face of a clip a box in every frame; the one that choose_track chooses first.

    Arguments and rules are those of choose_track.
    """
    portraits = None if frames is None else Portraits(frames)
    links = _Links(detections, max_gap, portraits)
    largest_first = sorted(  # of equal ones the older
        range(len(links.tracks)),
        key=lambda k: -sum(box_size(detections[t][i, :4]) for t, i in links.tracks[k].items()),
    )
    tracks = []
    for k in largest_first:
        known = links.tracks[k]
        faces = {t: detections[t][i] for t, i in known.items()}
        cuts = links.taken_over(k)
        ends = None
        if portraits is not None:
            cuts |= {  # it begins, ends or pauses because the whole picture becomes another
                t
                for t in range(1, len(detections))
                if (t in known) != (t - 1 in known) and not portraits.one_scene(t - 1, t)
            }
            first, last = min(faces), max(faces)
            ends = (
                portraits.picture(first, faces[first][:4]),
                portraits.picture(last, faces[last][:4]),
            )
        track = _fill_in(faces, len(detections), max_gap=max_gap, smooth=smooth)
        tracks.append(replace(track, cuts=tuple(sorted(cuts)), ends=ends))
    return tracks


def _fill_in(
    faces: dict[int, NDArray[np.float32]], count: int, *, max_gap: int, smooth: float
) -> Track:
    """Give every one of `count` frames a box, from the detections {frame: [5]} of one face."""
    frames, known = np.arange(count), np.array(sorted(faces))
    found = np.stack([faces[t] for t in known]).astype(np.float64)
    boxes = np.stack([np.interp(frames, known, side) for side in found.T[:4]], axis=1)
    distance = np.abs(frames[:, None] - known)
    held = (frames < known[0]) | (frames > known[-1])
    for before, after in pairwise(known.tolist()):
        if after - before - 1 > max_gap:
            held[before + 1 : after] = True
            gap = frames[before + 1 : after]
            boxes[gap] = found[distance[gap].argmin(axis=1), :4]  # of two as near, the earlier
    scores = np.zeros(count, dtype=np.float32)
    scores[known] = found[:, 4]
    return Track(
        boxes=smooth_boxes(boxes, sigma=smooth).astype(np.float32),
        scores=scores,
        detected=np.isin(frames, known),
        held=held,
    )


def link(
    detections: list[NDArray[np.float32]], *, max_gap: int, portraits: Portraits | None = None
) -> list[dict[int, int]]:
    """Link detections of one face over the frames, the nearest pairs first.

    Args:
        detections: as for choose_track.
        max_gap: as for choose_track.
        portraits: of the frames. Without them geometry alone decides.

    Returns:
        The tracks, each {frame: index of its detection in that frame}, in order of appearance. A
        detection is in exactly one of them.
    """
    return _Links(detections, max_gap, portraits).tracks


class _Links:
    """The tracks of a clip, as they grow frame by frame."""

    def __init__(
        self, detections: list[NDArray[np.float32]], max_gap: int, portraits: Portraits | None
    ) -> None:
        self.tracks: list[dict[int, int]] = []
        self._seen: list[list[tuple[int, NDArray[np.float32]]]] = []  # of each: frame and box
        self._parted: list[tuple[int, int, int]] = []  # track, and frame and index of a stranger
        self._max_gap, self._portraits = max_gap, portraits
        for t, found in enumerate(detections):
            self._add(t, found)

    def _add(self, t: int, found: NDArray[np.float32]) -> None:
        """Link the detections [N, 5] of the next frame, or begin tracks with them."""
        pairs = []
        for k, seen in enumerate(self._seen):
            last, box = seen[-1]
            for i, candidate in enumerate(found):
                lost = t - last - 1
                step = step_within_reach(box, candidate[:4], lost=lost, max_gap=self._max_gap)
                if step is not None:
                    pairs.append((step, k, i))
        free, open_tracks = set(range(len(found))), set(range(len(self.tracks)))
        for _, k, i in sorted(pairs):
            if k not in open_tracks or i not in free:
                continue
            if not self._one_person(k, t, found[i, :4]):
                self._parted.append((k, t, i))
                continue
            open_tracks.remove(k)
            free.remove(i)
            self.tracks[k][t] = i
            self._seen[k].append((t, found[i, :4]))
        for i in sorted(free):
            self.tracks.append({t: i})
            self._seen.append([(t, found[i, :4])])

    def _one_person(self, k: int, t: int, box: NDArray[np.float32]) -> bool:
        """Say whether a box of frame t can be the face of track k, by its looks."""
        if self._portraits is None:
            return True
        seen = self._seen[k]
        return self._portraits.one_person(*seen[-1], t, box) and self._portraits.one_person(
            *seen[-_FADE:][0], t, box, bounds=FAR
        )

    def taken_over(self, k: int) -> set[int]:
        """Return the frames in which somebody else is where track k was, or it where they were."""
        owner = {(t, i): other for other, track in enumerate(self.tracks) for t, i in track.items()}
        first: dict[tuple[int, int], int] = {}
        for left, t, i in self._parted:
            first.setdefault((left, owner[t, i]), t)
        gone = {t for (left, _), t in first.items() if left == k and t not in self.tracks[k]}
        come = {t for (_, new), t in first.items() if new == k and t - 1 not in self.tracks[k]}
        return gone | come


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


def smooth_boxes(boxes: NDArray[np.float64], *, sigma: float) -> NDArray[np.float64]:
    """Smooth boxes [T, 4] over time by a Gaussian of `sigma` frames.

    At the ends, and at jumps, the weights of the frames on this side are scaled to sum to 1.
    """
    if sigma == 0:
        return boxes
    steps = [box_change(a, b) for a, b in pairwise(boxes)]
    jumps = [step > _JUMP_STEP or ratio > _JUMP_RESIZE for step, ratio in steps]
    run = np.cumsum([0, *jumps])
    frames = np.arange(len(boxes))
    weights = np.exp(-0.5 * ((frames[:, None] - frames) / sigma) ** 2)
    weights *= run[:, None] == run
    smoothed: NDArray[np.float64] = weights @ boxes / weights.sum(axis=1, keepdims=True)
    return smoothed
