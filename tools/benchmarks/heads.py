"""Drawn heads: whether networks trained on photographs read them, and what they cost.

    SAFE_SHARED=FOLDER python -m tools.benchmarks.heads [--quick] [--sheet PNG]

Two gauges. An expression network trained on photographs of real people, which never saw ours
(FOLDER/tools/expression_gauge.py), reads faces at their apex, 100 people in seven classes, each in
a scene of its own, and the apex of the demo's own clips, blends and weak ones with them; the
detector looks for the face in whole frames. Intervals are Wilson's, 95 %.
Nothing was tuned on these people: their seed is SEED. The rate is CPU seconds of one thread, a
strip of 16 faces of 80 pixels with all that it needs, four strips a person.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from pipeline.face.detect import Detector
from pipeline.synthetic.clip import draw_clip
from pipeline.synthetic.expressions import APEX, unit_vector
from pipeline.synthetic.heads import render_heads
from pipeline.synthetic.person import draw_person
from pipeline.synthetic.plan import plan_clips
from pipeline.synthetic.scene import draw_scene
from safe.config import Config
from safe.taxonomy import BASIC
from tools.harness import Measured, arguments, publish, spread

SEED: Final = 31
SIZE: Final = 112  # pixels of an apex face
FRAME: Final = 192  # pixels of a whole frame
SHEET: Final = (20, 10)  # faces across and down
STILL: Final = np.zeros((1, 3), np.float32)


def main() -> None:
    """Print both gauges and the rate."""
    parser = arguments(__doc__, "ten people")
    parser.add_argument("--sheet", type=Path, help="write a contact sheet of 200 faces as PNG")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    if args.sheet:
        write_sheet(args.sheet)
    people = range(10 if args.quick else 100)
    measured = [*measure_rate(3 if args.quick else 12), measure_detector(people)]
    read = load_gauge()
    more: dict[str, Any] = {}
    if read:
        found, more = measure_expressions(read, people)
        measured = [*found, measure_demo(read, 35 if args.quick else 350), *measured]
    note = f"{len(people)} people of seed {SEED}; {SIZE} pixels, crop margin 0.1, amplitude {APEX}."
    publish("heads", "Drawn heads", measured, note=note, quick=args.quick or not read, **more)


def load_gauge() -> Callable[[list[NDArray[np.uint8]]], NDArray[np.float32]] | None:
    """Return the gauge's `read`, or None and a line where it is not to be had."""
    folder = Path(os.environ.get("SAFE_SHARED", "shared")) / "tools"
    if not (folder / "expression_gauge.py").is_file():
        print(f"no {folder}/expression_gauge.py: set SAFE_SHARED; the expression gauge is left out")
        return None
    sys.path.insert(0, str(folder))
    import expression_gauge  # type: ignore[import-not-found]
    import torch

    torch.set_num_threads(1)
    names = [expression_gauge.NAMES.index(name) for name in BASIC]
    return lambda faces: expression_gauge.read(faces)[:, names]


def draw_apex(identity: int, label: int) -> NDArray[np.uint8]:
    """Draw the face of a person at the apex of a class: uint8 [SIZE, SIZE, 3]."""
    rng = np.random.default_rng([SEED, 2, identity, label])
    units = np.float32(rng.uniform(*APEX)) * unit_vector(BASIC[label], rng)
    return render_heads(draw_person(SEED, identity), draw_scene(rng), units[None], STILL, SIZE)[0]


def measure_expressions(
    read: Callable[[list[NDArray[np.uint8]]], NDArray[np.float32]], people: range
) -> tuple[list[Measured], dict[str, Any]]:
    """Read each person in each class; by class, and by group as a table of shares in percent."""
    truth = np.tile(np.arange(len(BASIC)), len(people))
    said = np.concatenate(
        [read([draw_apex(who, k) for k in range(len(BASIC))]).argmax(1) for who in people]
    )
    right = said == truth
    measured = [proportion("read as labelled", right, least=80)]
    measured += [
        proportion(f"of it: {name}", right[truth == k], least=65) for k, name in enumerate(BASIC)
    ]
    traits = [draw_person(SEED, who).traits for who in people for _ in BASIC]
    groups = {
        "sex": [t.sex for t in traits],
        "ancestry": [t.ancestry for t in traits],
        "age": ["60 and more" if t.age >= 60 else "below 60" for t in traits],
        "glasses": ["glasses" if t.glasses else "no glasses" for t in traits],
        "beard": ["beard" if t.beard > 0.3 else "no beard" for t in traits],
    }
    shares = {
        f"{factor}: {group}": f"{100 * right[here].mean():.0f} % of {here.sum()}"
        for factor, values in groups.items()
        for group in sorted(set(values))
        for here in [np.array(values) == group]
    }
    confusion = np.zeros((len(BASIC), len(BASIC)), int)
    np.add.at(confusion, (truth, said), 1)
    print("\n".join(f"{group}: {share}" for group, share in shares.items()))
    print("rows: class; columns: read as", *BASIC)
    for name, row in zip(BASIC, confusion.tolist(), strict=True):
        print(f"{name:9s}", *(f"{count:5d}" for count in row))
    return measured, {"groups": shares, "confusion": confusion.tolist()}


def measure_demo(
    read: Callable[[list[NDArray[np.uint8]]], NDArray[np.float32]], clips: int
) -> Measured:
    """Read the apex of the first clips that the demo draws, against the class that is shown."""
    settings = Config().synthesize
    faces, truth = [], []
    for plan in plan_clips(settings)[:clips]:
        clip = draw_clip(plan, settings)
        at = slice(clip.apex, clip.apex + 1)
        units, turns = clip.motion.units[at], clip.motion.turns[at]
        faces += [*render_heads(clip.person, clip.scene, units, turns, SIZE)]
        truth.append(BASIC.index(plan.label))
    right = read(faces).argmax(1) == np.array(truth)
    return proportion(f"{clips} clips of the demo at their apex", right, least=70)


def measure_detector(people: range) -> Measured:
    """Look for the face in a whole frame of each person and class."""
    detect = Detector(detect_size=320, threshold=0.5)
    found = []
    for who in people:
        for label, name in enumerate(BASIC):
            rng = np.random.default_rng([SEED, 3, who, label])
            scene = draw_scene(rng, dark=0.1)
            units = np.float32(rng.uniform(0.3, 1.1)) * unit_vector(name, rng)
            place = np.array([rng.uniform((0.4, 0.4, 0.25), (0.6, 0.52, 0.5))])
            frame = render_heads(
                draw_person(SEED, who), scene, units[None], STILL, FRAME, places=place, follow=False
            )
            found.append(len(detect(frame[0])) == 1)
    return proportion("one face detected in a whole frame", np.array(found), least=98)


def measure_rate(people: int) -> list[Measured]:
    """Time strips of 16 faces of 80 pixels, four of each person."""
    seconds = []
    for who in range(people + 1):
        start = time.process_time()
        for clip in range(4):
            rng = np.random.default_rng([SEED, 4, who, clip])
            rise = np.linspace(0, 1, 16, dtype=np.float32)[:, None]
            units = rise * unit_vector(BASIC[clip], rng)
            poses = (rise * rng.normal(0, 0.1, 3)).astype(np.float32)
            render_heads(draw_person(SEED + 1, who), draw_scene(rng), units, poses, 80)
        seconds.append((time.process_time() - start) / 4)
    return [spread("a strip of 16 faces of 80 pixels", seconds[1:], unit="CPU s", most=0.25)]


def proportion(what: str, right: NDArray[np.bool_], *, least: float) -> Measured:
    """Return a share in percent with its Wilson interval."""
    tested = binomtest(int(right.sum()), len(right)).proportion_ci(method="wilson")
    low, high = 100 * tested.low, 100 * tested.high
    return Measured(what, 100 * float(right.mean()), low, high, unit="%", least=least)


def write_sheet(path: Path) -> None:
    """Write a contact sheet of 200 faces, each another person; the classes in turn."""
    across, down = SHEET
    faces = [draw_apex(1000 + n, n % len(BASIC)) for n in range(across * down)]
    rows = [np.hstack(faces[start : start + across]) for start in range(0, len(faces), across)]
    cv2.imwrite(str(path), np.vstack(rows)[:, :, ::-1])


if __name__ == "__main__":
    main()
