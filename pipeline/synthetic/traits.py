"""Traits: what stays the same of a person from clip to clip, as values for a table.

A random generator goes in, Traits come out. Colours are linear RGB, 0..1.
"""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

Colour = tuple[float, float, float]
Style = Literal["bald", "buzz", "short", "medium", "curly", "tied", "long"]
Hat = Literal["none", "beanie", "cap"]
ANCESTRIES: Final = ("african", "asian", "caucasian")

SKINS: Final = {
    "african": ((112, 72, 52), (88, 56, 42), (140, 94, 68), (164, 114, 84), (72, 46, 36)),
    "asian": ((226, 184, 148), (214, 168, 130), (236, 198, 164), (196, 148, 112)),
    "caucasian": ((232, 190, 165), (222, 172, 144), (240, 203, 184), (205, 156, 126)),
}
HAIRS: Final = (
    (28, 20, 16), (20, 16, 14), (52, 34, 22), (84, 56, 34), (120, 84, 48), (176, 138, 86),
    (150, 74, 40),
)  # fmt: skip
GREYS: Final = (120, 165, 205)
IRISES: Final = (
    (70, 44, 26), (52, 32, 20), (60, 40, 24), (92, 64, 36), (84, 104, 70), (82, 112, 138),
    (110, 128, 140),
)  # fmt: skip
LIPSTICKS: Final = ((168, 44, 52), (190, 80, 84), (150, 50, 70))
_LIGHT: Final = 0.28  # mean linear RGB of the skin from which hair and eyes may be light
_STYLES: Final = {
    "male": {
        "bald": 0.14, "buzz": 0.16, "short": 0.42, "medium": 0.14, "curly": 0.12, "long": 0.02,
    },
    "female": {
        "buzz": 0.02, "short": 0.13, "medium": 0.18, "curly": 0.12, "tied": 0.2, "long": 0.35,
    },
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Traits:
    """Who a person is. Every field may be forced with dataclasses.replace before drawing."""

    identity: int
    age: float  # years
    male: float  # 0 female .. 1 male, few between
    african: float  # shares of ancestry, sum 1
    asian: float
    caucasian: float
    weight: float  # -1 thin .. 1 heavy
    skin: Colour
    hair: Colour
    brow: Colour  # of the hairs; greys later
    iris: Colour
    lips: Colour
    style: Style
    fringe: bool
    beard: float  # 0 none, up to 0.3 stubble, 1 full
    glasses: bool
    hat: Hat
    wrinkles: float  # strength of all folds

    @property
    def sex(self) -> str:
        """Female or male, whichever is nearer."""
        return "male" if self.male >= 0.5 else "female"

    @property
    def old(self) -> float:
        """How far from 25 to 85 years, 0..1."""
        return min(max((self.age - 25) / 60, 0.0), 1.0)

    @property
    def child(self) -> float:
        """How far from 25 down to 11 years, 0..1."""
        return min(max((25 - self.age) / 14, 0.0), 1.0)

    @property
    def ancestry(self) -> str:
        """The ancestry with the largest share."""
        return max(ANCESTRIES, key=lambda name: getattr(self, name))

    @property
    def luminance(self) -> float:
        """Of the skin: mean linear RGB, 0..1."""
        return sum(self.skin) / 3


def linear(colour: tuple[float, ...]) -> Colour:
    """Turn RGB 0..255 into linear 0..1, by a gamma of 2.2."""
    red, green, blue = (float((channel / 255) ** 2.2) for channel in colour)
    return red, green, blue


def blend(first: Colour, second: Colour, share: float) -> Colour:
    """Return (1 - share) first + share second."""
    red, green, blue = (a + share * (b - a) for a, b in zip(first, second, strict=True))
    return red, green, blue


def draw_traits(rng: np.random.Generator, identity: int) -> Traits:
    """Draw a person's traits by lot."""
    shares = rng.dirichlet([0.35] * 3)
    male = float(np.clip((rng.random() - 0.5) * 6 + 0.5, 0, 1))
    spans = ((13, 20), (20, 45), (45, 80))
    age = float(rng.uniform(*spans[rng.choice(3, p=(0.08, 0.67, 0.25))]))
    tones = SKINS[ANCESTRIES[int(shares.argmax())]]
    others = SKINS[ANCESTRIES[rng.integers(3)]]
    skin = blend(linear(tones[rng.integers(len(tones))]), linear(others[0]), rng.uniform(0, 0.25))
    skin = blend((0, 0, 0), skin, rng.uniform(0.9, 1.1))
    light = sum(skin) / 3 > _LIGHT
    odds = (0.3, 0.25, 0.2, 0.12, 0.06, 0.05, 0.02) if light else (0.5, 0.45, 0.05, 0, 0, 0, 0)
    colour = linear(HAIRS[rng.choice(len(HAIRS), p=odds)])
    old = max(0.0, (age - 25) / 60)
    grey = rng.random() ** 0.7 * min(max((age - 35) / 30, 0.0), 1.0)
    iris = IRISES[
        rng.choice(7, p=(0.3, 0.3, 0.1, 0.1, 0.08, 0.08, 0.04)) if light else rng.integers(3)
    ]
    full = rng.uniform(0.85, 1.1)
    lips = (full * 0.86 * skin[0], full * 0.52 * skin[1], full * 0.5 * skin[2])
    lipstick = blend(
        (0, 0, 0), linear(LIPSTICKS[rng.integers(3)]), min(1, 0.25 + 2 * sum(skin) / 3)
    )
    if male < 0.35 and age > 16 and rng.random() < 0.45:
        lips = blend(lips, lipstick, 0.6)
    odds_of = _STYLES["male" if male >= 0.5 else "female"]
    style: Style = rng.choice(list(odds_of), p=list(odds_of.values())).item()
    if old > 0.4 and male >= 0.5 and rng.random() < 0.4:
        style = "bald"
    if style == "bald" and age < 22:
        style = "buzz"
    bearded = male > 0.7 and age > 19
    beard = float(rng.choice((0, 0.25, 0.55, 0.9), p=(0.45, 0.25, 0.2, 0.1)))
    return Traits(
        identity=identity,
        age=age,
        male=male,
        african=float(shares[0]),
        asian=float(shares[1]),
        caucasian=float(shares[2]),
        weight=float(np.clip(rng.normal() * 0.5, -1, 1)),
        skin=skin,
        hair=blend(colour, linear((GREYS[rng.integers(3)],) * 3), grey),
        brow=blend(colour, linear((130, 125, 120)), 0.5 * grey),
        iris=linear(iris),
        lips=lips,
        style=style,
        fringe=bool(rng.random() < 0.4) and style in ("short", "medium", "long"),
        beard=beard if bearded else 0.0,
        glasses=bool(rng.random() < 0.1),
        hat=("none", "beanie", "cap")[rng.choice(3, p=(0.92, 0.04, 0.04))],
        wrinkles=float(0.35 + 0.25 * rng.random() + 0.35 * old),
    )
