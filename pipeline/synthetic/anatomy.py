"""Anatomy: the head that all people are made from, its parts, and how 52 units move it.

In: the data file head.npz (CC0; origin in head.LICENSE.md). Out: constants of the mean head. Points
are in decimetres, x to the right of the picture (the person's left), y up, z to the viewer; V is
the number of points, about 5,800.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from pipeline.synthetic.surface import Float, Surface

_DATA: Final = np.load(Path(__file__).with_name("head.npz"))
_GRID: Final = np.float32(1e-3)  # dm, the step of stored offsets; see tools/heads_data.py

SKIN, LEFT_EYE, RIGHT_EYE, UPPER_TEETH, LOWER_TEETH, TONGUE, LASHES = range(7)
"""Materials of the mesh."""

FACES: Final[NDArray[np.int32]] = _DATA["faces"].astype(np.int32)  # [F, 3]
MATERIAL: Final[NDArray[np.int8]] = _DATA["material"]  # [F]
BASE: Final[Float] = _DATA["base"]  # [V, 3], before age, sex and ancestry are added
MEAN: Final[Float] = _DATA["mean"]  # [V, 3], of the young of all ancestries
COUNT: Final = len(MEAN)
UNITS: Final[tuple[str, ...]] = tuple(str(name) for name in _DATA["unit_names"])
"""Names of the 52 units of ARKit, in order; each moves the face in proportion to its weight."""
INDEX: Final = {name: number for number, name in enumerate(UNITS)}
DETAILS: Final[tuple[str, ...]] = tuple(str(name) for name in _DATA["detail_names"])
"""Names of the local changes of shape, `room/change`; those of one side have l- or r-."""

BODY: Final = np.zeros(COUNT, dtype=bool)  # [V], skin
BODY[FACES[MATERIAL == SKIN]] = True
LIPS: Final[Float] = _DATA["lips"] / np.float32(255) * BODY  # [V]
MOUTH: Final[Float] = _DATA["mouth"] / np.float32(255) * BODY  # [V], the inside of the mouth
SURFACE: Final = Surface(FACES, COUNT)

_x, _y, _z = np.abs(MEAN[:, 0]), MEAN[:, 1], MEAN[:, 2]
FRONT: Final = np.flatnonzero(
    BODY
    & (
        ((_z > 0.62) & (_y > 6.26) & (_y < 7.56) & (_x < 0.66))
        | ((_y > 6.8) & (_y < 7.4) & (np.abs(_x - 0.66) < 0.04) & (_z > 0.15))
    )
)
"""Points of the face, brows to chin and ear to ear: what its box in a picture is taken from."""


def _eyeballs() -> Float:
    """Each eye's points relative to its middle, in radii [V, 3]; zero elsewhere."""
    found = np.zeros((COUNT, 3), dtype=np.float32)
    for material in (LEFT_EYE, RIGHT_EYE):
        points = np.unique(FACES[material == MATERIAL])
        low, high = MEAN[points].min(0), MEAN[points].max(0)
        found[points] = (MEAN[points] - (low + high) / 2) / ((high - low)[0] / 2)
    return found


EYEBALL: Final = _eyeballs()
_MOVES: Final = csr_matrix(_DATA["units"].reshape(len(UNITS), -1).T * _GRID)
_MACROS: Final = {
    str(name): row for name, row in zip(_DATA["macro_names"], _DATA["macros"], strict=True)
}
_DETAILS: Final = dict(zip(DETAILS, _DATA["details"], strict=True))
_OPEN: Final[Float] = _DATA["open"] / np.float32(255)
_OPENS: Final = csr_matrix(_DATA["open_units"].T / np.float32(127))


def macro(name: str) -> Float:
    """Return the offsets [V, 3] of a macro of age, sex, ancestry or weight."""
    return np.asarray(_MACROS[name] * _GRID)


def detail(name: str) -> Float:
    """Return the offsets [V, 3] of a local change of shape."""
    return np.asarray(_DETAILS[name] * _GRID)


def move(units: Float) -> Float:
    """Return the offsets [T, V, 3] of weights of units [T, 52], linear in them."""
    moved = (_MOVES @ units.T).T
    return np.ascontiguousarray(moved).reshape(len(units), COUNT, 3)


def openness(units: Float) -> Float:
    """Return the share of a cloudy sky that reaches each point [T, V], baked for the mean head."""
    return np.asarray(np.clip(_OPEN + (_OPENS @ units.T).T, 0, 1), np.float32)


def unit_weights(mix: Mapping[str, float]) -> Float:
    """Return float32 [52] of weights by name; a name without Left or Right is of both sides."""
    weights = np.zeros(len(UNITS), dtype=np.float32)
    for name, weight in mix.items():
        for each in (name,) if name in INDEX else (f"{name}Left", f"{name}Right"):
            weights[INDEX[each]] += weight
    return weights
