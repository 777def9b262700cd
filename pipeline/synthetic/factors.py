"""Factors: the table of everything that was drawn of each clip, so that it can be drawn again.

Out of `synthesize` as factors.parquet, a row a clip, sorted by clip: who is seen, doing what, in
which light; the weights of all units in every frame; and the sha256 of the clip's file. `index`
carries it on, and `report` shows results by age, sex, ancestry, pose, light and strength.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, get_type_hints

import numpy as np
import pyarrow as pa

from pipeline.manifest import write_rows
from pipeline.synthetic.anatomy import UNITS
from pipeline.synthetic.clip import Drawn, draw_person_of
from pipeline.synthetic.motion import Motion
from pipeline.synthetic.occluder import Occluder
from pipeline.synthetic.plan import Planned
from pipeline.synthetic.scene import Scene
from pipeline.synthetic.traits import ANCESTRIES
from safe.config import Synthesize
from safe.taxonomy import BASIC

FACTORS: Final = "factors.parquet"
Row = dict[str, Any]
_REAL: Final = pa.float64()
_SCALARS: Final = {str: pa.string(), int: pa.int64(), float: _REAL, bool: pa.bool_()}


def _struct(kind: type) -> pa.DataType:
    """Return the Arrow type of a dataclass of scalars and colours."""
    hints = get_type_hints(kind)
    triple = pa.list_(_REAL, 3)
    return pa.struct([(name, _SCALARS.get(_plain(hint), triple)) for name, hint in hints.items()])


def _plain(hint: Any) -> Any:
    return str if getattr(hint, "__args__", ()) and isinstance(hint.__args__[0], str) else hint


def _rows_of(width: int) -> pa.DataType:
    return pa.list_(pa.list_(pa.float32(), width))


def _group(name: str, kind: pa.DataType, title: str, *edges: float, unit: str = "") -> pa.Field:
    """Return a column that clips are grouped by (safe/evaluation/groups.py)."""
    about = {"title": title, "edges": json.dumps(edges), "unit": unit}
    return pa.field(name, kind, metadata=about)


SCHEMA: Final = pa.schema(
    [
        pa.field("clip", pa.string()),
        pa.field("sha256", pa.string()),
        pa.field("identity", pa.int64()),
        _group("age", _REAL, "age", 18, 30, 45, 60, unit="years"),
        _group("sex", pa.string(), "sex"),
        _group("ancestry", pa.string(), "ancestry, the largest share"),
        *(pa.field(name, _REAL) for name in ANCESTRIES),
        _group("skin", _REAL, "luminance of the skin, 0 to 1", 0.15, 0.35),
        _group("hair", pa.string(), "hair"),
        _group("beard", _REAL, "beard, 0 to 1", 0.05, 0.4),
        _group("glasses", pa.bool_(), "glasses"),
        _group("hat", pa.string(), "hat"),
        _group("peak", _REAL, "strength at the apex", 0.01, 0.6, 0.8, 0.95),
        _group("blended", pa.bool_(), "two classes mixed"),
        _group("speech", pa.bool_(), "speech"),
        _group("turned", _REAL, "yaw to either side", 8, 16, 24, unit="degrees"),
        _group("lowered", _REAL, "pitch, above 0 downwards", -6, 6, unit="degrees"),
        _group("lit", _REAL, "light from the side", 25, 50, unit="degrees"),
        _group("exposure", _REAL, "exposure", 0.6, 0.95, 1.05),
        _group("covered", pa.string(), "covered by"),
        pa.field("mixture", pa.list_(_REAL, len(BASIC))),
        pa.field("plan", _struct(Planned)),
        pa.field("scene", _struct(Scene)),
        pa.field("occluder", _struct(Occluder)),
        pa.field("pixels", pa.int64()),
        pa.field("quality", pa.int64()),
        pa.field("apex", pa.int64()),
        pa.field("envelope", pa.list_(pa.float32())),
        pa.field("units", _rows_of(len(UNITS))),
        pa.field("turns", _rows_of(3)),
        pa.field("places", pa.list_(pa.list_(_REAL, 3))),
    ]
)
"""Columns with a title are those that clips are grouped by. `mixture` is the share of each class of
BASIC at the apex; `units`, `turns` and `places` have a row a frame of the video."""


def factors_of(drawn: Drawn, sha256: str) -> Row:
    """Return a row of the table."""
    plan, scene, traits, motion = drawn.plan, drawn.scene, drawn.person.traits, drawn.motion
    shares = {plan.label: plan.share, plan.blend: 1 - plan.share}
    return {
        "clip": plan.key,
        "sha256": sha256,
        "identity": plan.identity,
        **{name: getattr(traits, name) for name in ("age", "sex", "ancestry", *ANCESTRIES)},
        "skin": traits.luminance,
        "hair": traits.style,
        **{name: getattr(traits, name) for name in ("beard", "glasses", "hat")},
        "peak": plan.peak,
        "blended": bool(plan.blend),
        "speech": motion.speech,
        "turned": abs(float(np.rad2deg(scene.yaw))),
        "lowered": float(np.rad2deg(scene.pitch)),
        "lit": abs(float(np.rad2deg(scene.azimuth))),
        "exposure": scene.exposure,
        "covered": drawn.occluder.kind if drawn.occluder else "nothing",
        "mixture": [shares.get(name, 0.0) for name in BASIC],
        "plan": asdict(plan),
        "scene": asdict(scene),
        "occluder": asdict(drawn.occluder) if drawn.occluder else None,
        "pixels": drawn.pixels,
        "quality": drawn.quality,
        "apex": drawn.apex,
        "envelope": motion.envelope,
        "units": list(motion.units),
        "turns": list(motion.turns),
        "places": list(drawn.places),
    }


def write_factors(rows: Iterable[Row], path: Path) -> None:
    """Write the table, sorted by clip."""
    ordered = sorted(rows, key=lambda row: str(row["clip"]))
    write_rows(pa.Table.from_pylist(ordered, SCHEMA), path, compression="zstd")


def draw_again(row: Row, settings: Synthesize) -> Drawn:
    """Return a clip as its row says that it was drawn; the person follows from the seed."""
    plan = Planned(**row["plan"])
    scene = row["scene"] | {"background": tuple(row["scene"]["background"])}
    occluder = row["occluder"]
    if occluder is not None:
        occluder = Occluder(**occluder | {"colour": tuple(map(int, occluder["colour"]))})
    motion = {name: np.array(row[name], np.float32) for name in ("units", "turns", "envelope")}
    return Drawn(
        plan=plan,
        person=draw_person_of(plan, settings),
        scene=Scene(**scene),
        motion=Motion(**motion, speech=row["speech"]),
        places=np.array(row["places"]),
        occluder=occluder,
        pixels=row["pixels"],
        quality=row["quality"],
    )
