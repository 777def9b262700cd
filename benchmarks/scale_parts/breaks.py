"""At how many nodes, clips and clips a second does each part of the design end?"""

from dataclasses import dataclass
from math import inf

from benchmarks.scale_parts.model import PIXEL, Machines, Rates, Work, clip_seconds, strip_mb
from safe.reading.shard_index import INDEX_BYTES, TABLE_BYTES


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
