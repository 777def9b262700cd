"""Plan: who shows what in which clip, before anything is drawn.

In: the section `synthesize` of params.yaml. Out: a Planned for every clip, sorted by number; no
person in two folds, and every class in every fold.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from safe.config import Synthesize
from safe.taxonomy import BASIC

FOLDS: Final = 5
DFEW_TRAIN: Final = (1956, 1515, 2135, 1738, 1175, 116, 721)
"""Clips a class in DFEW's train list of fold 1: the long tail."""

CONFUSED: Final[Mapping[str, tuple[str, ...]]] = {
    "happy": ("surprise", "neutral"),
    "sad": ("neutral", "fear"),
    "neutral": ("sad", "angry", "happy"),
    "angry": ("disgust", "neutral"),
    "surprise": ("fear", "happy"),
    "disgust": ("angry",),
    "fear": ("surprise", "sad"),
}
"""With which classes people confuse a class (symmetric)."""

PEAK: Final = (0.7, 1.1)
"""Strength of an expression at its apex, in a set without variety; with it, from 0.35."""
FAINT: Final = (0.2, 0.45)
"""The same of a faint clip."""
_LEAST: Final = FOLDS  # clips a class: one in each fold


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One clip: who shows what, how strongly, and what the lists say of it."""

    number: int  # from 1; the file's name
    identity: int
    fold: int  # 1..5, whose test set holds it
    label: str  # what is shown
    listed: str  # what the lists say; another class in a noisy list
    blend: str  # the other class of a blend, or ""
    share: float  # of the label in the blend, 0..1
    peak: float  # strength at the apex; 0 for a plain neutral face
    cue: int = field(default=-1)  # class that background or light goes with; -1: none

    @property
    def key(self) -> str:
        """The name of the clip's file without its ending."""
        return f"{self.number:05d}"


def count_classes(clips: int, tail: float) -> list[int]:
    """Return the clips a class [K]: (1 - tail) balanced + tail * DFEW, at least 5 each.

    By largest remainders; `clips`, their sum, is at least 5 K.
    """
    dfew = np.array(DFEW_TRAIN) / sum(DFEW_TRAIN)
    ideal = clips * ((1 - tail) / len(BASIC) + tail * dfew)
    counts = np.floor(ideal).astype(int)
    counts[np.argsort(counts - ideal, kind="stable")[: clips - counts.sum()]] += 1
    while counts.min() < _LEAST:
        counts[counts.argmin()] += 1
        counts[counts.argmax()] -= 1
    return [int(count) for count in counts]


def plan_clips(settings: Synthesize) -> list[Planned]:
    """Decide who shows what in which clip; sorted by number.

    The clips, class by class, are dealt to the folds in turn, and those of a fold to its people in
    turn: so every fold has every class, and a person's face says nothing about the class. What
    `noise` and `cue` do is done to the clips of folds 2 to 5: fold 1 stays as it is, to test on.
    """
    rng = np.random.default_rng([settings.seed, 0])
    counts = count_classes(settings.clips, settings.tail)
    labels = [name for name, count in zip(BASIC, counts, strict=True) for _ in range(count)]
    people = rng.permutation(settings.identities)
    numbers = rng.permutation(settings.clips) + 1
    blended = set(rng.permutation(settings.clips)[: round(settings.ambiguity * settings.clips)])
    order = np.random.default_rng([settings.seed, 3]).permutation(settings.clips)
    faint = set(order[: round(settings.faint * settings.clips)])
    wrong = set(order[::-1][: round(settings.noise * settings.clips)])
    knobs = np.random.default_rng([settings.seed, 4])
    low = PEAK[0] - settings.variety * (PEAK[0] - 0.35)
    clips = []
    for i, label in enumerate(labels):
        fold = i % FOLDS + 1
        own = people[fold - 1 :: FOLDS]
        others = CONFUSED[label]
        blend = others[rng.integers(len(others))] if i in blended else ""
        # A blend shows a share w, uniform on 0.3..0.7, of one class and is labelled with it with
        # probability w. Given the label, the density of its share is therefore proportional to w.
        share = rng.uniform(0.3**2, 0.7**2) ** 0.5 if blend else 1.0
        peak = rng.uniform(*FAINT) if i in faint else rng.uniform(low, PEAK[1])
        other = BASIC[(BASIC.index(label) + knobs.integers(1, len(BASIC))) % len(BASIC)]
        any_class = int(knobs.integers(len(BASIC)))
        cue = any_class if fold == 1 else BASIC.index(label)
        clips.append(
            Planned(
                number=int(numbers[i]),
                identity=int(own[i // FOLDS % len(own)]),
                fold=fold,
                label=label,
                listed=other if i in wrong and fold > 1 else label,
                blend=blend,
                share=share,
                peak=peak if blend or label != "neutral" else 0.0,
                cue=-1 if settings.cue == "none" else cue,
            )
        )
    return sorted(clips, key=lambda clip: clip.number)
