"""What does a dataset cost on given machines: hours, bytes, requests, and what bounds it?

Rates that were measured, a dataset and machines go in; what each stage takes comes out. A stage
takes as long as the busiest of what works at the same time: the cores of all nodes, the driver
(`safe-cli faces` and `shard`, one process that writes all files), the network of a node, the GPUs.
Nothing here is measured; tools/benchmarks/scale_run.py does that.
"""

from dataclasses import dataclass
from math import ceil, inf

from safe.sample import DEFAULT_FRAMES
from safe.shards.index import INDEX_BYTES, TABLE_BYTES
from safe.shards.store import BLOCK

PIXEL = 3
"""Bytes of a decoded pixel."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What was measured on one machine. s: seconds of one core; megapixel: 10^6 pixels."""

    start: dict[str, float]
    """Of each stage: s from the start of `safe-cli` to its first clip, and from its last on."""
    row: float
    """s a clip that `index` lists."""
    open: float
    """s a clip: its container is listed, its decoder started."""
    decode: float
    """s a megapixel of video, all frames of a clip counted."""
    look: float
    """s a look of the detector, tracking included."""
    strip: float
    """s a megapixel of strip: crop, resize, JPEG."""
    leave: float
    """s a clip of the driver in `faces`: its row, its place among the strips left for `shard`."""
    leave_mb: float
    """s a MB of strips that the driver writes there."""
    pack: float
    """s a clip of the driver in `shard`: tables, record, tar members."""
    pack_mb: float
    """s a MB of strips that the driver reads, checks and writes into a tar."""
    relay_mb: float
    """s a MB from a Dask worker through the scheduler to the driver, over loopback."""
    memory: float
    """MB a clip that the driver of `shard` holds."""
    index: float
    """MB a tar in index.json."""
    table: float
    """MB a clip in clips.parquet."""
    strip_mb: float
    """MB a megapixel of strip."""
    load: float
    """s a megapixel of strip that the loader reads, checks and decodes."""
    step: float
    """s a clip of training, of this whole machine, with model.backbone: small."""
    infer: float
    """s a clip of inference, likewise."""
    turn: float
    """s of every pass over a split, until its loader has started and after it has ended."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """A dataset, and what is to be done with it."""

    name: str
    clips: int
    frames: float
    """Of a clip, mean."""
    megapixels: float
    """Of a frame."""
    looks: float
    """Of the detector at a clip, mean: 5 where one face is steady, else 16."""
    raw_mb: float
    """MB of a clip's video file."""
    size: int
    """Pixels, side of a stored face."""
    trained: int
    """Clips that a fold learns from."""
    selected: int = 0
    """Clips of the selection split, gone through once an epoch."""
    tested: int = 0
    """Clips of a fold's test split."""
    folds: int = 1
    epochs: int = 1
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


@dataclass(frozen=True, kw_only=True)
class Machines:
    """Nodes of one kind."""

    nodes: int
    cores: int
    """Of a node."""
    network: float
    """MB/s of a node, into it and out of it."""
    gpus: int = 1
    """Of a node."""
    gpu_rate: float = inf
    """Clips a second that one GPU trains. inf: not known, so hours are the least that all else
    takes."""
    batch: int = 32
    """Clips a GPU in a step."""
    gradient_mb: float = 0.0
    """MB of the gradients of a model."""


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
    video = work.frames * work.megapixels * rates.decode
    return rates.open + video + work.looks * rates.look + work.strip * rates.strip


def strip_mb(rates: Rates, work: Work) -> float:
    """Return the MB of a clip's strip."""
    return work.strip * rates.strip_mb


def index(rates: Rates, work: Work, machines: Machines) -> Stage:
    """Listing: one process, however many nodes there are."""
    seconds = work.clips * rates.row
    return Stage(rates.start["index"] + seconds, "driver", seconds)


def faces(rates: Rates, work: Work, machines: Machines) -> Stage:
    """Decode, detect, crop and encode on all cores; the driver writes what comes back.

    On one node the driver takes its time from the same cores. On several, strips come to it over
    the network through Dask's scheduler, and each node reads its share of the videos.
    """
    mb, share = strip_mb(rates, work), work.clips / machines.nodes
    cores = work.clips * clip_seconds(rates, work)
    driver = work.clips * (rates.leave + mb * rates.leave_mb)
    if machines.nodes == 1:
        cores, network = cores + driver, 0.0
    else:
        driver += work.clips * mb * rates.relay_mb
        network = max(work.clips * mb, share * work.raw_mb) / machines.network
    busy = {
        "cores": cores / (machines.nodes * machines.cores),
        "driver": driver,
        "network": network,
    }
    bound = max(busy, key=lambda name: busy[name])
    return Stage(rates.start["faces"] + busy[bound], bound, cores + driver)


def shard(rates: Rates, work: Work, machines: Machines) -> Stage:
    """The driver packs the strips that `faces` left: one process, however many nodes there are."""
    seconds = work.clips * (rates.pack + strip_mb(rates, work) * rates.pack_mb)
    return Stage(rates.start["shard"] + seconds, "driver", seconds)


def push(rates: Rates, work: Work, machines: Machines) -> float:
    """Return the seconds in which the driver sends all tars to a store and reads them back."""
    return 2 * work.clips * strip_mb(rates, work) / machines.network


def requests(rates: Rates, work: Work, machines: Machines) -> tuple[int, int]:
    """Return the requests of pushing all tars to a store, and of reading them for one epoch.

    A tar is sent, asked for its size, and read back in blocks (safe/shards/push.py). In an epoch
    each node
    reads every tar that has a clip to learn from, unless its cache holds it from the last one.
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
    ranks = machines.nodes * machines.gpus
    away = 1 - 1 / machines.nodes  # share of the clips, and of a ring, on other nodes
    gathered = machines.gpus * work.trained * work.strip * PIXEL * away
    summed = work.trained / (machines.batch * ranks) * 2 * machines.gradient_mb * away
    exchange = (gathered + summed) / machines.network
    compute = work.trained / (ranks * machines.gpu_rate)
    load = work.trained * work.strip * rates.load
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
    rest = work.folds * rates.start["train"]
    if work.selected:
        rest += passes * selection(rates, work.selected)
    return Stage(rest + passes * max(busy.values()), bound, passes * load)


def selection(rates: Rates, clips: int) -> float:
    """Return the seconds of one pass of inference on this machine."""
    return rates.turn + clips * rates.infer


def here(rates: Rates, work: Work, *, cores: int) -> dict[str, float]:
    """Return the seconds of each stage on the measured machine, with its own small model."""
    machine = Machines(nodes=1, cores=cores, network=inf, gpu_rate=1 / rates.step)
    return {
        "index": index(rates, work, machine).seconds,
        "faces": faces(rates, work, machine).seconds,
        "shard": shard(rates, work, machine).seconds,
        "train": train(rates, work, machine).seconds,
        "calibrate": rates.start["calibrate"] + selection(rates, work.selected),
        "eval": rates.start["eval"] + selection(rates, work.tested),
    }


# At how many nodes, clips and clips a second does each part of the design end?


@dataclass(frozen=True)
class Breaks:
    """Where the design ends, each from the rates and one kind of machine and clip."""

    nodes: float
    """With more nodes `faces` is no faster: the driver or its network is busy all the time."""
    packing: float
    """Nodes at which `shard`, which is one process, takes as long as `faces`."""
    memory: float
    """Clips at which the driver of `shard` needs a memory of 64 GB."""
    index: float
    """Clips at which index.json or clips.parquet is larger than its reader allows."""
    loader: float
    """Clips a second that the cores of a node decode for its GPUs."""
    summing: float
    """Seconds of a step in which the gradients go round, with many nodes."""
    gather: float
    """Clips a second of all GPUs together: then a node's network does nothing but gather faces."""


def breaks(rates: Rates, work: Work, machines: Machines, *, memory_mb: float = 64e3) -> Breaks:
    """Return where each part ends for such clips on such nodes, however many."""
    mb = strip_mb(rates, work)
    core = clip_seconds(rates, work) / machines.cores
    driver = rates.leave + mb * (rates.leave_mb + rates.relay_mb)
    return Breaks(
        nodes=core / max(driver, mb / machines.network),
        packing=core / (rates.pack + mb * rates.pack_mb),
        memory=memory_mb / rates.memory if rates.memory > 0 else inf,
        index=min(INDEX_BYTES / 1e6 / rates.index * work.tar, TABLE_BYTES / 1e6 / rates.table),
        loader=machines.cores / (work.strip * rates.load),
        summing=2 * machines.gradient_mb / machines.network,
        gather=machines.network / (machines.gpus * work.strip * PIXEL),
    )
