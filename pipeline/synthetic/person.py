"""Person: a head that is like no other, drawn by lot, and the same in all of that person's clips.

In: a seed and an identity, or traits. Out: Person, the head at rest with its paint, hair and wear.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from pipeline.synthetic.anatomy import BASE, DETAILS, FRONT, MEAN, detail, macro, move, unit_weights
from pipeline.synthetic.skin import paint_skin
from pipeline.synthetic.surface import Float
from pipeline.synthetic.texture import noise
from pipeline.synthetic.traits import ANCESTRIES, Colour, Traits, draw_traits
from pipeline.synthetic.wear import Wear, cloth, make_wear

REST: Final = {
    "browDown": 0.3, "browInnerUp": 0.3, "browOuterUp": 0.3, "cheekSquint": 0.2, "eyeSquint": 0.25,
    "eyeWide": 0.25, "mouthFrown": 0.25, "mouthPress": 0.2, "mouthPucker": 0.15,
    "mouthRollLower": 0.3, "mouthRollUpper": 0.3, "mouthShrugLower": 0.2, "mouthSmile": 0.2,
    "mouthStretch": 0.15, "noseSneer": 0.15,
}  # fmt: skip
"""Standard deviations of the units of a face at rest, when drawn as widely as `rest` = 1."""
_SMILE: Final = (0.14, 0.08)  # mean and deviation of the smile that a face at rest has
_LID: Final = (0.1, 0.04)  # of the blink: the upper lid covers the iris's upper border
_CHANGES: Final = 36  # local changes of shape a person has
_WEAK: Final = {
    "head/": 0.6, "eyebrows/": 0.4, "mouth-angles": 0.4, "eyefold-angle": 0.4, "corner": 0.4,
    "shape-pointed": 0.3,
}  # fmt: skip
"""Changes that are drawn weaker: those that look like an expression, or like no one."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Person:
    """A head at rest: points float32 [V, 3] in dm, see anatomy.MEAN."""

    traits: Traits
    rest: Float
    albedo: Float  # [HEIGHT, WIDTH, 3] of the face's texture
    strands: Float  # [HEIGHT, WIDTH], noise of the hair
    wear: tuple[Wear, ...]
    cover: Float  # [V], dm inside the hairline
    cloth: Colour
    collar: float  # dm, the height below which the body is clothed
    pupil: float  # size of the iris, about 1


@lru_cache(maxsize=16)
def draw_person(seed: int, identity: int, rest: float = 0.25) -> Person:
    """Draw a person by lot.

    Args:
        seed: of the data set.
        identity: number of the person.
        rest: how widely the face at rest is drawn: its brows, lids and mouth corners.
    """
    rng = np.random.default_rng([seed, 1, identity])
    return make_person(draw_traits(rng, identity), seed, rest)


def make_person(traits: Traits, seed: int, rest: float = 0.25) -> Person:
    """Make the person of given traits; what they leave open is drawn from seed and identity."""
    rng = np.random.default_rng([seed, 5, traits.identity])
    look = np.random.default_rng([seed, 6, traits.identity])
    head = BASE + _build(traits) + _features(rng)
    head -= (head[FRONT] - MEAN[FRONT]).mean(0)  # people are of several heights
    smile = float(np.clip(look.normal(*_SMILE), -0.05, 0.3))
    drawn = {name: rest * float(look.normal(0, width)) for name, width in REST.items()}
    drawn["mouthSmile"] += smile
    drawn["eyeBlink"] = float(look.normal(*_LID))
    units = unit_weights(drawn) * look.uniform(0.9, 1.1, 52).astype(np.float32)
    head = (head + move(units[None])[0]).astype(np.float32)
    wear, cover = make_wear(traits, head, rng)
    strands = noise(rng, 0.8) * 0.5 + noise(rng, 0.8, 9)
    return Person(
        traits=traits,
        rest=head,
        albedo=paint_skin(traits, rng),
        strands=np.clip(strands / strands.std(), -3, 3).astype(np.float32),
        wear=wear,
        cover=cover,
        cloth=cloth(rng),
        collar=float(rng.uniform(5.75, 6.0)),
        pupil=float(rng.uniform(0.93, 1.08)),
    )


def _build(traits: Traits) -> Float:
    """Sum the macros of age, sex, ancestry and weight: offsets [V, 3]."""
    ages = {"child": traits.child, "young": 1 - traits.child - traits.old, "old": traits.old}
    figure = "maxweight" if traits.weight > 0 else "minweight"
    total = np.zeros_like(BASE)
    for sex, share in (("male", traits.male), ("female", 1 - traits.male)):
        for age, part in ages.items():
            if share * part <= 0:
                continue
            for ancestry in ANCESTRIES:
                weight = np.float32(share * part * getattr(traits, ancestry))
                total += weight * macro(f"{ancestry}-{sex}-{age}")
            for name, much in (
                ("averageweight", 1 - abs(traits.weight)),
                (figure, abs(traits.weight)),
            ):
                offsets = macro(f"universal-{sex}-{age}-averagemuscle-{name}")
                total += np.float32(share * part * much) * offsets
    return total


def _features(rng: np.random.Generator) -> Float:
    """Draw local changes of shape, both sides alike but for a little: offsets [V, 3]."""
    total = np.zeros_like(BASE)
    both = sorted({name.replace("/l-", "/*-").replace("/r-", "/*-") for name in DETAILS})
    uneven = [name for name in both if name.startswith("asym/")]
    for name in rng.choice([name for name in both if name not in uneven], _CHANGES, replace=False):
        weight = rng.uniform(0, 0.5)
        for part, factor in _WEAK.items():
            weight *= factor if part in name else 1
        for side in sorted({name.replace("*", "l"), name.replace("*", "r")}):
            total += np.float32(weight * rng.uniform(0.85, 1.15)) * detail(side)
    for name in rng.choice(uneven, 8, replace=False):
        total += np.float32(rng.uniform(0, 0.35)) * detail(str(name))
    return total
