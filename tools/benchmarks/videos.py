"""Which videos are sharded in a benchmark, where no dataset is at hand?

Drawn faces of the project, as large and as long as films' clips are: 608 x 608 pixels (0.37
megapixels) and 74 frames, H.264 as x264 encodes by default. Three kinds: one steady face, a cut to
another person in the middle, two people side by side.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import av
import numpy as np
from numpy.typing import NDArray

from pipeline.synthetic.render import Clip, draw_clip
from safe.params import load_config
from safe.taxonomy import BASIC

PARAMS: Final = Path(__file__).parents[2] / "params.yaml"
SIDE: Final = 608
FRAMES: Final = 74
FPS: Final = 25
KINDS: Final = ("steady", "cut", "two people")

Frames = NDArray[np.uint8]


def write_videos(folder: Path, *, steady: int, others: int) -> dict[str, list[Path]]:
    """Write `steady` clips of one steady face and `others` of each other kind; paths by kind."""
    faces = _people(steady + 4 * others)
    kinds: dict[str, list[Frames]] = {
        "steady": [next(faces) for _ in range(steady)],
        "cut": [_cut(next(faces), next(faces)) for _ in range(others)],
        "two people": [np.concatenate([next(faces), next(faces)], 2) for _ in range(others)],
    }
    folder.mkdir(parents=True, exist_ok=True)
    paths: dict[str, list[Path]] = {}
    for kind, clips in kinds.items():
        paths[kind] = [folder / f"{kind.replace(' ', '-')}-{i:03d}.mp4" for i in range(len(clips))]
        for path, frames in zip(paths[kind], clips, strict=True):
            _encode(path, frames)
    return paths


def _people(count: int) -> Iterator[Frames]:
    """Draw clips of different people, uint8 [FRAMES, SIDE, SIDE, 3]."""
    settings = load_config(PARAMS).synthesize.model_copy(update={"size": SIDE, "fps": FPS})
    for number in range(1, count + 1):
        clip = Clip(
            number=number,
            identity=number,
            fold=1,
            label=BASIC[number % len(BASIC)],
            blend="",
            share=1.0,
            peak=0.8,
        )
        drawn = np.stack(draw_clip(clip, settings))
        there_and_back = np.concatenate([drawn, drawn[-2:0:-1]])  # a motion without jumps
        repeats = -(-FRAMES // len(there_and_back))
        yield np.concatenate([there_and_back] * repeats)[:FRAMES]


def _cut(first: Frames, second: Frames) -> Frames:
    """Cut from one clip to another, whose person stands elsewhere."""
    elsewhere = np.roll(second, SIDE // 6, axis=2)
    return np.concatenate([first[: FRAMES // 2], elsewhere[FRAMES // 2 :]])


def _encode(path: Path, frames: Frames) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
