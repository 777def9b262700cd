"""Expressions: the units of each class at its apex, in the ways that the literature has them.

A class goes in, weights of ARKit's 52 units come out, float32 [52], both sides nearly alike.

The action units (AU) of each variant are those of the prototypes and major variants of Ekman,
Friesen and Hager's Facial Action Coding System, Investigator's Guide (2002), which EMFACS keeps
(Friesen and Ekman 1983). Du, Tao and Martinez (PNAS 111, 2014, table 1) found in most people who
posed the basic classes: happy 12, 25 (6); sad 4, 15 (1, 6, 11, 17); fear 1, 4, 20, 25 (2, 5, 26);
anger 4, 7, 24 (10, 17, 23); surprise 1, 2, 25, 26 (5); disgust 9, 10, 17 (4, 24). Which of ARKit's
units stand for an AU, and how much of each, is our own fit to this mesh, by eye and by a network
trained on photographs (tools/benchmarks/heads.py): its brows move 4 to 6 mm at weight 1, a real one
rises by about 10.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np

from pipeline.synthetic.anatomy import unit_weights
from pipeline.synthetic.surface import Float
from safe.taxonomy import BASIC

Mix = dict[str, float]
APEX: Final = (0.85, 1.1)  # of an expression at full strength
_UNEVEN: Final = 0.06  # standard deviation of a unit between the sides
EXPRESSIONS: Final[dict[str, tuple[Mix, ...]]] = {
    "neutral": (
        {},
        {"eyeBlink": 0.08},
        {"mouthPress": 0.1},
        {"browInnerUp": 0.1},
        {"browOuterUp": 0.15},
    ),
    "happy": (
        # AU 6 + 12
        {"mouthSmile": 1, "cheekSquint": 0.8, "eyeSquint": 0.35, "mouthDimple": 0.3,
         "browOuterUp": 0.2, "browInnerUp": 0.1},
        # 6 + 12 + 25, lower teeth
        {"mouthSmile": 1, "cheekSquint": 0.8, "eyeSquint": 0.35, "mouthLowerDown": 0.5,
         "jawOpen": 0.08, "mouthStretch": 0.3},
        # 6 + 12 + 25, upper teeth
        {"mouthSmile": 1.1, "cheekSquint": 0.8, "eyeSquint": 0.35, "mouthStretch": 0.4,
         "mouthRollUpper": 0.4, "mouthUpperUp": 0.4, "jawOpen": 0.15},
        # 6 + 12 + 25 + 26, a laugh
        {"mouthSmile": 1.1, "cheekSquint": 0.9, "eyeSquint": 0.4, "mouthDimple": 0.5,
         "mouthRollUpper": 0.4, "mouthUpperUp": 0.6, "mouthLowerDown": 0.2, "jawOpen": 0.2,
         "browOuterUp": 0.3, "browInnerUp": 0.2},
        # 12 with a little 6
        {"mouthSmile": 0.8, "cheekSquint": 0.6, "eyeSquint": 0.3, "mouthDimple": 0.4},
    ),
    "sad": (
        # 1 + 4 + 15
        {"browInnerUp": 2.0, "browDown": 0.7, "mouthFrown": 1.2, "mouthShrugLower": 0.2,
         "eyeBlink": 0.25},
        # 1 + 4 + 15 + 17
        {"browInnerUp": 1.8, "browDown": 0.6, "mouthFrown": 1, "mouthShrugLower": 0.8,
         "eyeBlink": 0.2},
        # 1 + 4 + 15 + 17 + 64, the gaze lowered
        {"browInnerUp": 1.9, "browDown": 0.6, "mouthFrown": 1.15, "mouthShrugLower": 0.6,
         "eyeLookDown": 0.5, "eyeBlink": 0.1},
        # 1 + 4 + 6 + 15 + 17 + 20, near tears
        {"browInnerUp": 2.0, "browDown": 0.8, "cheekSquint": 0.4, "eyeSquint": 0.4,
         "mouthFrown": 1.1, "mouthShrugLower": 0.8, "mouthStretch": 0.3},
    ),
    "angry": (
        # 4 + 5 + 7 + 17 + 24; the outer brow is raised to make the V that browDown alone does not
        {"browDown": 2, "browOuterUp": 1.1, "eyeWide": 0.5, "eyeSquint": 0.7, "noseSneer": 0.7,
         "mouthRollUpper": 0.5, "mouthRollLower": 0.5, "mouthFrown": 0.3, "mouthShrugLower": 0.3},
        # 4 + 5 + 7 + 10 + 25, clenched teeth
        {"browDown": 2, "browOuterUp": 1.1, "eyeWide": 0.6, "eyeSquint": 0.6, "noseSneer": 0.6,
         "mouthStretch": 0.4, "mouthUpperUp": 0.4, "mouthLowerDown": 1.1, "jawOpen": 0.12},
        # 4 + 5 + 7 + 10 + 25 + 26, a shout
        {"browDown": 1.8, "browOuterUp": 1, "eyeWide": 0.6, "eyeSquint": 0.6, "noseSneer": 0.6,
         "mouthStretch": 0.5, "mouthUpperUp": 0.6, "mouthLowerDown": 1, "jawOpen": 0.3},
        # 4 + 5 + 7 + 23 + 29
        {"browDown": 2.2, "browOuterUp": 1.2, "eyeWide": 0.6, "eyeSquint": 0.6, "noseSneer": 0.5,
         "mouthRollUpper": 0.7, "mouthRollLower": 0.7, "mouthFrown": 0.25, "jawForward": 0.3},
    ),
    "surprise": (
        # 1 + 2 + 5 + 26
        {"browInnerUp": 1.7, "browOuterUp": 1.5, "eyeWide": 0.8, "jawOpen": 0.35},
        # 1 + 2 + 5 + 27
        {"browInnerUp": 1.8, "browOuterUp": 1.6, "eyeWide": 0.9, "jawOpen": 0.6},
        # 1 + 2 + 5 + 26, the lips a little rounded
        {"browInnerUp": 1.7, "browOuterUp": 1.5, "eyeWide": 0.8, "jawOpen": 0.4,
         "mouthFunnel": 0.35},
    ),
    "disgust": (
        # 9 + 10 + 15; the sneer lowers the brow, and so the inner brow is raised again
        {"noseSneer": 1.6, "mouthUpperUp": 1.2, "eyeSquint": 1, "cheekSquint": 1,
         "browInnerUp": 0.6, "eyeBlink": 0.3, "mouthFrown": 0.3},
        # 9 + 10 + 17
        {"noseSneer": 1.4, "mouthUpperUp": 1.2, "eyeSquint": 0.8, "cheekSquint": 1,
         "browInnerUp": 0.6, "eyeBlink": 0.25, "mouthShrugLower": 0.6, "mouthFrown": 0.3},
        # 9 + 10 + 19 + 26, the tongue out
        {"noseSneer": 1.4, "mouthUpperUp": 1.2, "eyeSquint": 0.8, "cheekSquint": 1,
         "browInnerUp": 0.6, "eyeBlink": 0.25, "jawOpen": 0.15, "tongueOut": 0.7,
         "mouthLowerDown": 0.4},
        # 9 + 10, the lips pushed forward
        {"noseSneer": 1.4, "mouthUpperUp": 1.0, "mouthShrugUpper": 0.5, "eyeSquint": 0.8,
         "cheekSquint": 1, "browInnerUp": 0.5, "eyeBlink": 0.25, "mouthPucker": 0.2},
    ),
    "fear": (
        # 1 + 2 + 4 + 5 + 20 + 26
        {"browInnerUp": 2.2, "browOuterUp": 1.15, "browDown": 0.8, "eyeWide": 1.6,
         "mouthStretch": 2.0, "mouthLowerDown": 0.7, "jawOpen": 0.25},
        # 1 + 2 + 4 + 5 + 20 + 25, teeth shown
        {"browInnerUp": 2.3, "browOuterUp": 1.15, "browDown": 1.0, "eyeWide": 1.6,
         "mouthStretch": 2.1, "mouthUpperUp": 0.5, "mouthLowerDown": 0.9, "jawOpen": 0.2},
        # 1 + 2 + 4 + 5 + 15 + 20 + 26
        {"browInnerUp": 2.4, "browOuterUp": 1.1, "browDown": 1.0, "eyeWide": 1.6,
         "mouthStretch": 1.6, "mouthLowerDown": 0.6, "jawOpen": 0.3, "mouthFrown": 0.3},
        # 1 + 2 + 4 + 5 + 20 + 25
        {"browInnerUp": 2.2, "browOuterUp": 1.1, "browDown": 1, "eyeWide": 1.8,
         "mouthStretch": 1.9, "mouthLowerDown": 1.0, "mouthUpperUp": 0.2, "jawOpen": 0.22},
    ),
}  # fmt: skip
"""A unit without Left or Right stands for both. Which class comes first matters to nobody."""

assert set(EXPRESSIONS) == set(BASIC)


def unit_vector(name: str, rng: np.random.Generator) -> Float:
    """Draw one of a class's ways to look at full strength: float32 [52], a little uneven."""
    ways = EXPRESSIONS[name]
    weights = unit_weights(ways[rng.integers(len(ways))])
    return np.asarray(weights * (1 + _UNEVEN * rng.standard_normal(52)), np.float32)


def blend(shares: Mapping[str, float], rng: np.random.Generator) -> Float:
    """Draw a face that shows several classes: the sum of their units [52] by their shares."""
    faces = [np.float32(share) * unit_vector(name, rng) for name, share in shares.items()]
    return np.asarray(sum(faces), np.float32)
