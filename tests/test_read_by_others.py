"""Do other readers get from our tars what our own loader gets: webdataset and datasets as they are?

A shard folder whose samples have flags and one whose samples have none, two tars and more each: the
key, the label, every value of the json and every pixel are compared with what ClipReader and the
tables say. Without a network.
"""

import json
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from numpy.typing import NDArray
from support import ROOT, grey_ramp, write_video

from pipeline.face.table import SCHEMA as FACES
from pipeline.manifest import SCHEMA as MANIFEST
from pipeline.manifest import with_classes
from pipeline.pool.pool import Pool
from pipeline.shard import write_shards
from pipeline.video.decode import frame_indices
from safe.params import load_config
from safe.sample import decode_strip
from safe.shards.clips import ClipReader
from safe.shards.folder import open_shards
from safe.taxonomy import Classes

CLASSES: Classes = ("calm", "笑顔", "very tense")
T, SIZE = 16, 32
WIDTH, HEIGHT, LENGTH = 64, 48, 18
FLAGGED = {
    "c04": ("missing", "no face in any frame", "missing"),
    "c05": ("ok", "2 of 16 frames interpolated, 1 of 16 frames held", "interpolated,held"),
    "c06": ("partial", "face in 9 of 16 frames", "partial"),
    "c08": ("ok", "1 of 16 frames held", "held"),
}
"""Status, reason and flags of the clips that get flags; those of the first tar get none."""


@dataclass(frozen=True)
class Ours:
    """A shard folder, and what our own reader and the tables say of its samples, by key."""

    tars: list[str]
    keys: list[str]
    label: dict[str, int]
    faces: dict[str, NDArray[np.uint8]]
    record: dict[str, dict[str, Any]]


@pytest.fixture(scope="module", params=["flagged", "plain"])
def ours(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ours:
    """Make three tars of nine clips, of which four have flags, or none."""
    root = tmp_path_factory.mktemp(request.param)
    flagged = FLAGGED if request.param == "flagged" else {}
    listed, found, records = [], [], {}
    for number in range(9):
        key, label = f"c{number:02d}", number % 3
        fps = (25.0, 30.0, 12.5)[number % 3]
        frames = grey_ramp(LENGTH, height=HEIGHT, width=WIDTH)
        frames[..., label] = 25 * number
        video = write_video(root / f"{key}.mp4", frames, fps=fps)
        listed.append(
            {
                **{"clip": key, "path": video.name, "label": label, "source": "video"},
                **{"bucket": "train" if number < 6 else "test", "bytes": video.stat().st_size},
            }
        )
        status, reason, flags = flagged.get(key, ("ok", "", ""))
        common = {
            **{"clip": key, "n_frames": LENGTH, "fps": fps, "width": WIDTH, "height": HEIGHT},
            "frame_index": frame_indices(LENGTH),
            "box": [[8.0, 8.0, 40.0, 40.0] if number % 2 else [8.125, 6.5, 40.25, 38.0]] * T,
            "score": [float(status != "missing")] * T,
        }
        found.append(common | {"status": status, "reason": reason})
        box = [[round(side, 2) for side in box] for box in common["box"]]
        records[key] = common | {"box": box, "label": CLASSES[label], "flags": flags}
    manifest, faces = root / "manifest.parquet", root / "faces.parquet"
    pq.write_table(with_classes(pa.Table.from_pylist(listed, MANIFEST), CLASSES), manifest)
    pq.write_table(pa.Table.from_pylist(found, FACES), faces)
    config = load_config(
        ROOT / "params.yaml", [f"shard.size={SIZE}", "shard.clips=4", "augment.crop=32"]
    )
    out = root / "shards"
    made = write_shards(
        manifest, faces, root, out,
        settings=config.shard, faces_settings=config.faces, pool=Pool(deadline=60),
    )  # fmt: skip
    assert made == {"clips": 9, "left_out": 0, "shards": 3}
    return read_ours(out, records)


def read_ours(out: Path, records: dict[str, dict[str, Any]]) -> Ours:
    """Read all clips of a shard folder as training does."""
    folder = open_shards(out)
    assert folder.classes == CLASSES
    pixels = np.empty((len(folder.clip), T, SIZE, SIZE, 3), np.uint8)
    reader = ClipReader(folder)
    reader.read(np.arange(len(folder.clip)), pixels)
    reader.close()
    keys = folder.clip.tolist()
    return Ours(
        tars=[str(folder.root / str(name)) for name in folder.files],
        keys=keys,
        label=dict(zip(keys, folder.label.tolist(), strict=True)),
        faces=dict(zip(keys, pixels, strict=True)),
        record=records,
    )


def check(ours: Ours, key: str, label: Any, record: Any, strip: NDArray[np.uint8]) -> None:
    """Compare one sample as another reader gives it, its types too."""
    assert (label, type(label)) == (ours.label[key], int)
    assert record == ours.record[key]
    wanted = ours.record[key]
    assert {name: type(value) for name, value in record.items()} == {
        name: type(value) for name, value in wanted.items()
    }
    assert record["label"] == CLASSES[label]
    assert strip.dtype == np.uint8
    np.testing.assert_array_equal(strip.reshape(T, SIZE, SIZE, 3), ours.faces[key])


def test_our_table_says_the_flags_of_the_json(ours: Ours) -> None:
    table = pq.read_table(Path(ours.tars[0]).parent / "clips.parquet", columns=["clip", "flags"])
    said = {row["clip"]: row["flags"] for row in table.to_pylist()}
    assert said == {key: record["flags"] for key, record in ours.record.items()}


def test_webdataset_gives_the_bytes_of_every_member(ours: Ours) -> None:
    read = list(webdataset.WebDataset(ours.tars, shardshuffle=False))
    assert [sample["__key__"] for sample in read] == ours.keys
    for sample in read:
        assert {name for name in sample if name[0] != "_"} == {"jpg", "cls", "json"}
        key, strip = sample["__key__"], decode_strip(sample["jpg"], SIZE, T)
        check(ours, key, int(sample["cls"]), json.loads(sample["json"]), strip)


def test_webdataset_decodes_as_we_do(ours: Ours) -> None:
    read = list(webdataset.WebDataset(ours.tars, shardshuffle=False).decode("rgb8"))
    assert [sample["__key__"] for sample in read] == ours.keys
    for sample in read:
        check(ours, sample["__key__"], sample["cls"], sample["json"], sample["jpg"])


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Import Hugging Face's package, which may use no network, and no folder of the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_DATASETS_OFFLINE", "1")
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("home")))
        package = import_module("datasets")
    package.disable_progress_bars()
    return package


@pytest.mark.parametrize("streaming", [True, False], ids=["streaming", "prepared"])
@pytest.mark.parametrize("order", [1, -1], ids=["in order", "last tar first"])
def test_datasets_gives_the_same(
    ours: Ours, datasets: Any, tmp_path: Path, streaming: bool, order: int
) -> None:
    """The types of the columns are those of the first tar's samples; all others must fit them."""
    read = datasets.load_dataset(
        "webdataset",
        data_files=ours.tars[::order],
        split="train",
        streaming=streaming,
        cache_dir=str(tmp_path),
    )
    assert set(read.features) == {"jpg", "cls", "json", "__key__", "__url__"}
    kinds = read.features["json"]
    assert (kinds["flags"].dtype, kinds["label"].dtype, kinds["fps"].dtype) == (
        *("string", "string", "float64"),
    )
    samples = list(read)
    keys = [sample["__key__"] for sample in samples]
    assert sorted(keys) == sorted(ours.keys)
    assert keys == ours.keys or order == -1
    for sample in samples:
        check(ours, sample["__key__"], sample["cls"], sample["json"], np.array(sample["jpg"]))
