"""What a dataset costs on many machines, and what ends first: sums over measured rates.

    python -m tools.benchmarks.scale_model [--cores 16] [--network 10] [--gpu-rate R]

In: the rates of tools/benchmarks/scale.py, a dataset, nodes of one kind. Out: hours, bytes and
requests. A stage takes as long as the busiest of what works at the same time: the cores of all
nodes, the driver (`safe-cli faces` and `shard`, one process that writes all files), the network of
a node, the GPUs. Nothing is measured here.
"""

import argparse
import json
from dataclasses import dataclass, replace
from math import ceil, inf, isinf
from typing import Any, Final

from safe.sample import DEFAULT_FRAMES
from safe.shards.index import INDEX_BYTES, TABLE_BYTES
from safe.shards.store import BLOCK
from tools.harness import BENCHMARKS, caption, table

PIXEL: Final = 3
"""Bytes of a decoded pixel."""
GPU_RATE: Final = "compiled training step, batch 32"
"""Of tools/benchmarks/gpu.py: the paper's model on one GPU, clips a second."""

UNITS: Final = {
    "start of index": ("s", 1.0, "a start of the stage"),
    "start of faces": ("s", 1.0, "a start of the stage"),
    "start of shard": ("s", 1.0, "a start of the stage"),
    "row": ("ms", 1e3, "a clip that `index` lists"),
    "open": ("ms", 1e3, "a clip: its container is listed, its decoder started"),
    "decode": ("ms", 1e3, "a megapixel of video, all frames of a clip counted"),
    "detect": ("ms", 1e3, "a frame that the detector is run on, tracking included"),
    "strip": ("ms", 1e3, "a megapixel of strip: crop, resize, JPEG"),
    "cache": ("ms", 1e3, "a clip of the driver of `faces`: its row, its entry in the strip cache"),
    "cache_mb": ("ms", 1e3, "a MB of strips that the driver writes there"),
    "pack": ("ms", 1e3, "a clip of the driver of `shard`: tables, record, tar members"),
    "pack_mb": ("ms", 1e3, "a MB of strips that the driver reads, checks and writes into a tar"),
    "relay_mb": (
        "ms",
        1e3,
        "a MB from a Dask worker through the scheduler to the driver, loopback",
    ),
    "load": ("ms", 1e3, "a megapixel of strip that the loader reads, checks and decodes"),
    "strip_mb": ("MB", 1.0, "a megapixel of strip, on the disk"),
    "index": ("KB", 1e3, "a tar, in index.json"),
    "table": ("KB", 1e3, "a clip, in clips.parquet"),
}
"""Of each rate: its unit on the page, how many of it are a second or a MB, what it is for. Seconds
are those of one core."""

Rates = dict[str, float]
"""By the names of UNITS, in seconds and MB."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """A dataset, and what is to be done with it; means over its clips."""

    name: str
    clips: int
    frames: float
    trained: int
    """Clips that a fold learns from."""
    folds: int = 1
    epochs: int = 1
    megapixels: float = 0.48
    """Of a frame. This and the next two are those of 40 short real clips."""
    detections: float = 7.7
    """Frames of a clip that the detector is run on: 5 where one face is steady, else 16."""
    raw_mb: float = 0.003
    """MB of a frame in the video file."""
    size: int = 128
    """Pixels, side of a stored face: the paper's."""
    tar: int = 200
    """Clips in a tar."""

    @property
    def strip(self) -> float:
        """Megapixels of a strip."""
        return DEFAULT_FRAMES * self.size**2 / 1e6

    @property
    def tars(self) -> int:
        """Number of tars, but for those of several buckets that are not full."""
        return ceil(self.clips / self.tar)


WORKS: Final = (
    Work(name="DFEW", clips=11_697, frames=77.1, trained=8_420, folds=5, epochs=200),
    Work(name="FERV39k", clips=38_935, frames=28.0, trained=27_980, epochs=200),
    Work(name="like DFEW", clips=10**7, frames=77.1, trained=8 * 10**6, epochs=10),
)
"""Clips, mean lengths and how many are learnt (train.val_from: clips; of DFEW the mean over folds)
are those of the official lists; the third has clips as DFEW's."""


@dataclass(frozen=True, kw_only=True)
class Machines:
    """Nodes of one kind, each with one GPU."""

    nodes: int = 1
    cores: int = 16
    """Of a node."""
    network: float = 1250.0
    """MB/s of a node, into it and out of it."""
    gpu_rate: float = inf
    """Clips a second that a GPU trains; inf: not known, so hours are what all else takes."""
    batch: int = 32
    """Clips a GPU in a step."""
    gradient_mb: float = 169.0
    """MB of a model's gradients; of r3d_18's SAFE."""


@dataclass(frozen=True)
class Stage:
    """What a stage takes."""

    seconds: float
    """Wall clock, start included."""
    bound: str
    """What it waits for: the busiest of cores, driver, network, GPU."""
    core_seconds: float
    """Of all nodes together."""


def clip_seconds(rates: Rates, work: Work) -> float:
    """Return the seconds of one core that a clip takes in `faces`: from video to strip."""
    video = work.frames * work.megapixels * rates["decode"]
    detect = work.detections * rates["detect"]
    return rates["open"] + video + detect + work.strip * rates["strip"]


def strip_mb(rates: Rates, work: Work) -> float:
    """Return the MB of a clip's strip."""
    return work.strip * rates["strip_mb"]


def index(rates: Rates, work: Work) -> Stage:
    """Listing: one process, however many nodes there are."""
    seconds = work.clips * rates["row"]
    return Stage(rates["start of index"] + seconds, "driver", seconds)


def faces(rates: Rates, work: Work, machines: Machines) -> Stage:
    """Decode, detect, crop and encode on all cores; the driver writes what comes back.

    On one node the driver takes its time from the same cores. On several, strips come to it over
    the network through Dask's scheduler, and each node reads its share of the videos.
    """
    mb = strip_mb(rates, work)
    cores = work.clips * clip_seconds(rates, work)
    driver = work.clips * (rates["cache"] + mb * rates["cache_mb"])
    if machines.nodes == 1:
        cores, network = cores + driver, 0.0
    else:
        driver += work.clips * mb * rates["relay_mb"]
        videos = work.clips / machines.nodes * work.frames * work.raw_mb
        network = max(work.clips * mb, videos) / machines.network
    busy = {
        "cores": cores / (machines.nodes * machines.cores),
        "driver": driver,
        "network": network,
    }
    bound = max(busy, key=lambda name: busy[name])
    return Stage(rates["start of faces"] + busy[bound], bound, cores + driver)


def shard(rates: Rates, work: Work) -> Stage:
    """The driver packs the strips that `faces` left: one process, however many nodes there are."""
    seconds = work.clips * (rates["pack"] + strip_mb(rates, work) * rates["pack_mb"])
    return Stage(rates["start of shard"] + seconds, "driver", seconds)


def push(rates: Rates, work: Work, machines: Machines) -> float:
    """Return the seconds in which the driver sends all tars to a store and reads them back."""
    return 2 * work.clips * strip_mb(rates, work) / machines.network


def requests(rates: Rates, work: Work, machines: Machines) -> tuple[int, int]:
    """Return the requests of pushing all tars to a store, and of reading them for one epoch.

    A tar is sent, asked for its size, and read back in blocks (safe/shards/push.py). In an epoch
    each node reads every tar that has a clip to learn from, unless its cache holds it from before.
    """
    blocks = ceil(work.tar * strip_mb(rates, work) * 1e6 / BLOCK)
    learnt = ceil(work.tars * work.trained / work.clips)
    return work.tars * (2 + blocks), machines.nodes * learnt * blocks


def train(rates: Rates, work: Work, machines: Machines) -> Stage:
    """Train all folds. Every rank gathers the faces of the whole batch before each step.

    Per epoch a GPU computes its share, then waits: for the other nodes' faces [B, 16, S, S, 3], and
    for the sum of gradients, twice their bytes round a ring. Meanwhile cores decode the node's
    share, and its network brings all tars, since each node needs clips of every tar.
    """
    away = 1 - 1 / machines.nodes  # share of the clips, and of a ring, on other nodes
    gathered = work.trained * work.strip * PIXEL * away
    steps = work.trained / (machines.batch * machines.nodes)
    exchange = (gathered + steps * 2 * machines.gradient_mb * away) / machines.network
    compute = work.trained / (machines.nodes * machines.gpu_rate)
    load = work.trained * work.strip * rates["load"]
    tars = work.trained * strip_mb(rates, work) / machines.network if machines.nodes > 1 else 0.0
    busy = {
        "GPU": compute + exchange,
        "cores": load / (machines.nodes * machines.cores),
        "network": exchange + tars,
    }
    bound = max(busy, key=lambda name: busy[name])
    if bound == "GPU" and exchange > compute:
        bound = "network"
    passes = work.folds * work.epochs
    return Stage(passes * max(busy.values()), bound, passes * load)


def limits(rates: Rates, work: Work, machines: Machines) -> dict[str, str]:
    """Say where each part of the design ends for such clips on such nodes, however many."""
    mb = strip_mb(rates, work)
    core = clip_seconds(rates, work) / machines.cores
    driver = rates["cache"] + mb * (rates["cache_mb"] + rates["relay_mb"])
    packing = core / (rates["pack"] + mb * rates["pack_mb"])
    index_mb, table_mb = INDEX_BYTES / 1e6, TABLE_BYTES / 1e6
    files = min(index_mb / rates["index"] * work.tar, table_mb / rates["table"])
    loader = machines.cores / (work.strip * rates["load"])
    return {
        "`shard`, one process, takes as long as `faces`": f"{packing:.1f} nodes",
        "`faces` is no faster: its driver, or its network, is busy all the time": (
            f"{core / max(driver, mb / machines.network):.0f} nodes"
        ),
        "index.json or clips.parquet is larger than its reader allows": f"{count(files)} clips",
        "the cores of a node decode no more for its GPU": f"{count(loader)} clips/s",
        "a node's network does nothing but gather the faces of all GPUs": (
            f"{count(machines.network / (work.strip * PIXEL))} clips/s of all GPUs"
        ),
        "the gradients' time in each step, however many nodes there are": (
            f"{2 * machines.gradient_mb / machines.network:.2g} s"
        ),
    }


# How the answers read


def hours_table(rates: Rates, machines: Machines) -> str:
    """Return hours and what bounds them, for each dataset on each number of nodes."""
    rows = []
    for work in WORKS:
        for nodes in NODES:
            these = replace(machines, nodes=nodes)
            listed, found, packed = (
                index(rates, work),
                faces(rates, work, these),
                shard(rates, work),
            )
            trained = train(rates, work, these)
            cores = (listed.core_seconds + found.core_seconds + packed.core_seconds) / 3600
            rows.append(
                {
                    "clips": f"{work.name}, {work.clips:,}",
                    "nodes": nodes,
                    "index": duration(listed.seconds),
                    "faces": duration(found.seconds),
                    "faces bound by": found.bound,
                    "shard": duration(packed.seconds),
                    "core-hours": f"{cores:,.{1 if cores < 100 else 0}f}",
                    "train" if not isinf(machines.gpu_rate) else "train, at least": (
                        duration(trained.seconds)
                    ),
                    "train bound by": trained.bound,
                }
            )
    return table(rows)


def bytes_table(rates: Rates, machines: Machines) -> str:
    """Return bytes and requests of each dataset."""
    rows = []
    for work in WORKS:
        asked = {n: requests(rates, work, replace(machines, nodes=n)) for n in NODES}
        rows.append(
            {
                "clips": f"{work.name}, {work.clips:,}",
                "videos": size(work.clips * work.frames * work.raw_mb),
                "tars": size(work.clips * strip_mb(rates, work)),
                "number": work.tars,
                "index.json": size(work.tars * rates["index"]),
                "clips.parquet": size(work.clips * rates["table"]),
                "push": duration(push(rates, work, machines)),
                "requests: push": asked[1][0],
                **{f"an epoch, {n} node{'s' * (n > 1)}": reads for n, (_, reads) in asked.items()},
            }
        )
    return table(rows)


NODES: Final = (1, 8, 64)


def duration(seconds: float) -> str:
    """Write seconds in the unit that a person would choose."""
    for least, unit, name in ((86_400 * 2, 86_400, "d"), (3_600, 3_600, "h"), (60, 60, "min")):
        if seconds >= least:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds:.2g} s"


def size(mb: float) -> str:
    """Write MB in the unit that a person would choose; units of ten."""
    for unit, name in ((1e6, "TB"), (1e3, "GB"), (1.0, "MB")):
        if mb >= unit:
            return f"{mb / unit:.3g} {name}"
    return f"{mb * 1e3:.3g} KB"


def count(number: float) -> str:
    """Write a count with two digits that mean something."""
    return f"{number / 1e6:.2g} million" if number >= 1e6 else f"{float(f'{number:.2g}'):,.0f}"


# Results


def read_rates(found: dict[str, Any]) -> Rates:
    """Return the rates that results/scale.json keeps."""
    values = {row["what"].replace("`", ""): row["value"] for row in found["metrics"]}
    return {name: values[name] / scale for name, (_, scale, _) in UNITS.items()}


def gpu_rate() -> float:
    """Return the clips a second of one GPU of results/gpu.json; inf where nobody measured."""
    path = BENCHMARKS / "gpu.json"
    for part in json.loads(path.read_text())["parts"] if path.exists() else []:
        for row in part["metrics"]:
            if row["what"] == GPU_RATE:
                return float(row["value"])
    return inf


def answers(rates: Rates, machines: Machines) -> str:
    """Return what was assumed, and all tables."""
    work = WORKS[0]
    rate = "not known" if isinf(machines.gpu_rate) else f"{machines.gpu_rate:.0f} clips a second"
    learnt = "; ".join(
        f"{one.name}: {f'{one.folds} folds of ' * (one.folds > 1)}{one.epochs} epochs of "
        f"{one.trained:,} clips"
        for one in WORKS
    )
    parts = [
        f"Nodes of {machines.cores} cores as those that were measured, one GPU "
        f"({rate}) and {machines.network / 125:g} Gbit/s, {machines.batch} clips a GPU in a step, "
        f"r3d_18 ({machines.gradient_mb:.0f} MB of gradients). {learnt}. Faces of {work.size} "
        f"pixels. Frames of {work.megapixels} megapixels, {work.detections} detections a clip and "
        f"{1e3 * work.raw_mb:g} KB of video a frame are those of 40 short real clips; no clip of "
        f"DFEW or FERV39k is here. A clip of DFEW takes {1e3 * clip_seconds(rates, work):.0f} ms "
        "of a core.",
        hours_table(rates, machines),
        bytes_table(rates, machines),
        table([{"what ends": k, "at": v} for k, v in limits(rates, work, machines).items()]),
    ]
    return "\n\n".join(parts)


def page_part() -> str:
    """Return what docs/scale.md says, from the kept results."""
    found = json.loads((BENCHMARKS / "scale.json").read_text())
    rates = read_rates(found)
    parts = [caption("python -m tools.benchmarks.scale", found)]
    parts.append(answers(rates, Machines(gpu_rate=gpu_rate())))
    parts.append("The rates behind it:")
    parts.append(
        table(
            [
                {"rate": name, "value": f"{rates[name] * scale:.3g} {unit}", "for": what}
                for name, (unit, scale, what) in UNITS.items()
            ]
        )
    )
    parts.append(found["note"])
    parts.append(check_table(found["check"]))
    return "\n\n".join(parts)


def check_table(check: dict[str, list[float]]) -> str:
    """Return the seconds of each stage as they were predicted and as they were."""
    return table(
        [
            {
                "stage": stage,
                "predicted": f"{said:.1f} s",
                "measured": f"{was:.1f} s",
                "ratio": f"{said / was:.2f}",
            }
            for stage, (said, was) in check.items()
        ]
    )


def main() -> None:
    """Print what the kept rates say of nodes of another kind."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--gpu-rate", type=float, default=gpu_rate(), help="clips/s of one GPU")
    parser.add_argument("--network", type=float, default=10.0, help="Gbit/s of a node")
    parser.add_argument("--cores", type=int, default=16, help="of a node")
    args = parser.parse_args()
    rates = read_rates(json.loads((BENCHMARKS / "scale.json").read_text()))
    node = Machines(cores=args.cores, network=125 * args.network, gpu_rate=args.gpu_rate)
    print(answers(rates, node))


if __name__ == "__main__":
    main()
