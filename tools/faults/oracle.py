"""A judge of the frames that a video is said to show, by what ffmpeg shows of it.

In: a video of tools/faults/numbered.py, and what the project answers about it: 16 frames of a clip,
the windows of a film, a strip of a shard. Out: how many frames are not the frame of their position.
What is right is what the ffmpeg program decodes, in the order in which it shows it, with its
stamps.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.stretch import cut_stretch, read_windows, survey
from pipeline.video.decode import Decoded, Decoder, read_video
from pipeline.windows import group_windows, plan
from safe.errors import DataError
from safe.sample import DEFAULT_FRAMES
from tools.faults.numbered import Area, ffmpeg, read_number

_SHOWN: Final = re.compile(
    r"pts_time:(\S+)\s+duration:\s*\S+\s+duration_time:(\S+) .*? s:(\d+)x(\d+) i:(\w) "
)
_FILE: Final = re.compile(r"Duration: [^,]+, start: (-?[\d.]+)")
_CONSTANT: Final = 0.5
"""Part of the mean frame period by which a stamp may be off its place at constant rate."""
_EITHER: Final = 0.05
"""So near to that part either rule is right: the product rounds stamps as the container does."""
_GUESS: Final = 3.5
"""Frames by which ffmpeg's guess at a time may be off."""
_RAISED: Final = "raised "
"""What the reason of a refusal begins with that is no refusal but an error of the program."""
_BEGIN: Final = 0.1
"""Seconds by which the first window may begin besides the first frame, or"""
_FRAMES: Final = 3
"""frames: AVI does not say when a frame is shown, and decoders with B-frames give it late."""
_MEAN, _P99 = 1.5, 8
"""Mean difference of pixels, and 99th percentile, above which they are not ffmpeg's pixels."""
_SMALL: Final = 64
"""Side of the pictures that are kept of a video without squares."""
_LIKE: Final = 1.0
"""Mean difference by which the right frame of such a video may be less like than another: of a
picture that stands still all frames are alike."""
_SOON: Final = 0.002
"""Seconds by which a time may differ: containers keep milliseconds."""


@dataclass(frozen=True)
class Truth:
    """What ffmpeg shows of a video."""

    pictures: NDArray[np.uint8]
    """uint8 [n, H, W, 3], RGB, upright."""
    numbers: list[int]
    """What each shows; -1 where ffmpeg itself shows a picture that cannot be read."""
    stamps: list[float]
    """Seconds from the start of the file; none where ffmpeg gives none."""
    last: float
    """Seconds that the last frame lasts; 0 where ffmpeg does not say."""
    whole: bool
    """Whether no frame is two fields: the project may show those otherwise than ffmpeg does."""
    ordered: bool = False
    """Whether the container keeps the order of frames and not their times (AVI), or ffmpeg's stamps
    do not ascend: then they are its guesses, off by up to _GUESS frames."""


def find_truth(path: Path, area: Area | None) -> Truth:
    """Decode a video by the ffmpeg program, all frames in the order in which they are shown.

    `area` says where the squares are. None: there are none, the video is not of the table, and its
    pictures are kept small.

    Raises:
        RuntimeError: if ffmpeg fails, or shows nothing.
    """
    chain = "showinfo" if area else f"scale={_SMALL}:{_SMALL}:flags=area,showinfo"
    raw, said = ffmpeg(
        *("-nostats", "-threads", "1", "-copyts", "-i", str(path), "-map", "0:v:0", "-vf", chain),
        *("-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"),
    )
    shown = _SHOWN.findall(said)
    if not shown:
        raise RuntimeError(f"ffmpeg shows nothing of {path.name}: {said[-500:]}")
    width, height = map(int, shown[0][2:4])
    pictures = np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)
    if len(pictures) != len(shown):
        raise RuntimeError(f"{path.name}: {len(pictures)} pictures, {len(shown)} time stamps")
    known = all(stamp != "NOPTS" for stamp, *_ in shown)
    begin = _FILE.search(said)  # where a player's clock stands at 0: the first of all streams
    first = float(begin[1]) if begin else 0.0
    stamps = [float(stamp) - first for stamp, *_ in shown] if known else []
    last = shown[-1][1]
    whole = all(kind == "P" for *_, kind in shown)
    numbers = [read_number(picture, area) if area else -1 for picture in pictures]
    ordered = path.suffix == ".avi" or bool((np.diff(stamps) <= 0).any())
    lasts = 0.0 if last == "NOPTS" else float(last)
    return Truth(pictures, numbers, stamps, lasts, whole, ordered)


# The rule of the 16 frames


def right_indices(truth: Truth) -> list[list[int]]:
    """Return the lists of 16 positions that the rule allows.

    At constant rate it is one. Elsewhere the frames at the centres of 16 equal parts of the time,
    and there may be several lists: files do not all say how long the last frame lasts.
    """
    n = len(truth.numbers)
    even = [(2 * i + 1) * n // (2 * DEFAULT_FRAMES) for i in range(DEFAULT_FRAMES)]
    stamps = np.array(truth.stamps)
    if n < 3 or len(stamps) != n or stamps[-1] <= stamps[0]:
        return [even]
    period = (stamps[-1] - stamps[0]) / (n - 1)
    off = np.abs(stamps - stamps[0] - period * np.arange(n)).max() / period
    steady = bool((np.diff(stamps) > 0).all())  # else the container tells no times worth the name
    bound = _GUESS if truth.ordered else _CONSTANT + _EITHER
    allowed = [even] if off <= bound or not steady else []
    if off > _CONSTANT - _EITHER:
        for last in {truth.last, period, float(stamps[-1] - stamps[-2])}:
            parts = (stamps[-1] - stamps[0] + last) / DEFAULT_FRAMES
            for early in (-_SOON, 0.0, _SOON):
                centres = stamps[0] + parts * (np.arange(DEFAULT_FRAMES) + 0.5) + early
                found = np.searchsorted(stamps, centres, side="right") - 1
                allowed.append(np.clip(found, 0, n - 1).tolist())
    return allowed


# Verdicts


@dataclass
class Verdict:
    """What is wrong with one answer."""

    outcome: str
    """whole: given as ok; damaged: given, but told to be damaged; refused; unknown: a container or
    codec that is not opened."""
    reason: str = ""
    wrong: int = 0
    """Frames that are not the frame of their place."""
    judged: int = 0
    """Frames that could be judged."""
    faults: list[str] = field(default_factory=list)
    """What else is wrong with an answer that is given as whole."""
    pixels: tuple[float, float, int] | None = None
    """Mean, 99th percentile and largest absolute difference from ffmpeg's pixels."""

    @property
    def is_wrong(self) -> bool:
        """Whether it was given as whole and is not."""
        return self.outcome == "whole" and bool(self.wrong or self.faults)


def refused(reason: str) -> Verdict:
    """Return the verdict on a refusal."""
    unknown = reason.startswith("not a video of a kind that is allowed") or "not allowed" in reason
    return Verdict("unknown" if unknown else "refused", reason)


def _told(error: Exception) -> str:
    """Return why something is refused; any other error is a finding, and the table goes on."""
    said = "" if isinstance(error, DataError) else f"{_RAISED}{type(error).__name__}: "
    return f"{said}{error}"


def ask(path: Path, decoder: Decoder) -> Decoded | str:
    """Return what the project gives as the 16 frames of a clip, or why it refuses it."""
    try:
        return read_video(path, decoder=decoder)
    except Exception as error:  # noqa: BLE001  see _told
        return _told(error)


def judge(answer: Decoded | str, truth: Truth, area: Area | None) -> Verdict:
    """Judge the 16 frames of a clip."""
    if isinstance(answer, str):
        return refused(answer)
    verdict = Verdict("damaged" if answer.damage else "whole", answer.damage)
    if answer.n_frames != len(truth.numbers):
        verdict.faults.append(f"{answer.n_frames} frames, not {len(truth.numbers)}")
    if answer.indices not in right_indices(truth):
        verdict.faults.append(f"positions {answer.indices}, not {right_indices(truth)[0]}")
    for frame, index in zip(answer.frames, answer.indices, strict=True):
        judge_frame(verdict, frame, index, truth, area)
    verdict.pixels = difference(answer, truth)
    if verdict.pixels and not verdict.wrong:
        mean, p99, most = verdict.pixels
        if mean >= _MEAN or p99 > _P99:
            told = f"pixels off by {mean:.2f}, 99 % by at most {p99:.0f}, {most}"
            verdict.faults.append(told)
    return verdict


def judge_frame(
    verdict: Verdict,
    frame: NDArray[np.uint8],
    index: int,
    truth: Truth,
    area: Area | None,
) -> None:
    """Add to a verdict whether a frame [H, W, 3] is the one that ffmpeg shows at a place."""
    if index >= len(truth.numbers):
        verdict.judged += 1
        verdict.wrong += 1
    elif area is None:
        small = cv2.resize(frame, (_SMALL, _SMALL), interpolation=cv2.INTER_AREA).astype(np.int16)
        off = np.abs(truth.pictures - small).mean(axis=(1, 2, 3))
        verdict.judged += 1
        verdict.wrong += bool(off[index] > off.min() + _LIKE)
    elif truth.numbers[index] >= 0:
        verdict.judged += 1
        verdict.wrong += read_number(frame, area) != truth.numbers[index]


def difference(answer: Decoded, truth: Truth) -> tuple[float, float, int] | None:
    """Compare pixels: mean, 99th percentile, largest; None where they cannot be compared."""
    if not truth.whole or answer.frames.shape[1:] != truth.pictures.shape[1:]:
        return None
    if max(answer.indices) >= len(truth.pictures):
        return None
    off = np.abs(answer.frames.astype(np.int16) - truth.pictures[answer.indices])
    return float(off.mean()), float(np.percentile(off, 99)), int(off.max())


# Windows of a film. What follows knows how pipeline.stretch is called; nothing else here does.


@dataclass(frozen=True)
class Window:
    """What the project gives as one window of a film."""

    decoded: Decoded | None
    """Its pixels are overwritten when the next one is asked for."""
    start: float
    """Seconds from the start of the file, as players count."""
    end: float


def read_film(path: Path, *, window: float = 0.64, hop: float = 0.32) -> Iterator[Window]:
    """Yield the windows of a film as `predict` reads them. Raises DataError."""
    film = survey(path)
    windows, _ = plan(film, window=window, hop=hop)
    if len(windows) == 1:  # read as a clip is
        yield Window(read_video(path), windows[0].start, windows[0].end)
        return
    for group in group_windows(film, windows):
        stretch = cut_stretch(path, film, [one.indices for one in group])
        for one, decoded in zip(group, read_windows(stretch), strict=True):
            yield Window(decoded, one.start, one.end)


def judge_film(path: Path, truth: Truth, area: Area | None) -> Verdict:
    """Judge all windows of a film: each frame by its number, each window by its time."""
    verdict = Verdict("whole")
    try:
        for number, window in enumerate(read_film(path)):
            if not number:
                _judge_begin(verdict, window, truth)
            decoded = window.decoded
            if decoded is None or decoded.damage:
                verdict.outcome = "damaged"
                verdict.reason = "no frame" if decoded is None else decoded.damage
                continue
            if decoded.indices != sorted(decoded.indices):
                verdict.faults.append(f"order {decoded.indices}")
            for frame, index in zip(decoded.frames, decoded.indices, strict=True):
                judge_frame(verdict, frame, index, truth, area)
                _judge_time(verdict, index, window, truth)
    except Exception as error:  # noqa: BLE001  see _told
        return refused(_told(error))
    return verdict


def _judge_begin(verdict: Verdict, window: Window, truth: Truth) -> None:
    """The first window must begin with the first frame, on the clock of a player."""
    if not truth.stamps:
        return
    first, gaps = truth.stamps[0], np.diff(truth.stamps[:9])
    if abs(window.start - first) > max(_BEGIN, _FRAMES * (gaps.min() if len(gaps) else 0)):
        verdict.faults.append(f"begins at {window.start:.3f}, not {first:.3f} s")


def _judge_time(verdict: Verdict, index: int, window: Window, truth: Truth) -> None:
    """A frame of a window must be on the screen at some moment of it."""
    if index >= len(truth.stamps):
        return
    begins = truth.stamps[index]
    last = truth.last or (truth.stamps[-1] - truth.stamps[0]) / max(1, len(truth.stamps) - 1)
    ends = truth.stamps[index + 1] if index + 1 < len(truth.stamps) else begins + last
    slack = _GUESS * float(np.median(np.abs(np.diff(truth.stamps)))) if truth.ordered else _SOON
    if begins >= window.end + slack or ends <= window.start - slack:
        verdict.faults.append(
            f"frame {index}, shown {begins:.3f} to {ends:.3f} s, is in the window "
            f"{window.start:.3f} to {window.end:.3f} s"
        )


def describe(truth: Truth) -> dict[str, Any]:
    """Return what a table keeps of a file's truth."""
    gaps = [after - before for before, after in pairwise(truth.stamps)]
    return {
        "frames": len(truth.numbers),
        "unread": truth.numbers.count(-1),
        "in order": truth.numbers == sorted(truth.numbers),
        "first": truth.stamps[0] if truth.stamps else None,
        "gaps": [min(gaps), max(gaps)] if gaps else [],
    }
