"""Paths that each stage reads and writes; the same stand in dvc.yaml."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safe.config import Config
from safe.files import fitting
from safe.params import load_config
from safe.record import Digests

if TYPE_CHECKING:
    from pipeline.pool.fetch import StoredClips
    from safe.shards.cache import StoredShards


@dataclass(frozen=True)
class Layout:
    """Paths of one dataset, relative to the project's folder."""

    name: str

    @property
    def manifest(self) -> Path:
        """Made by index."""
        return Path("data", self.name, "manifest.parquet")

    @property
    def factors(self) -> Path:
        """What the data set says of its clips; made by index."""
        return self.manifest.with_name("factors.parquet")

    @property
    def faces(self) -> Path:
        """Made by faces."""
        return Path("data", self.name, "faces.parquet")

    @property
    def strips(self) -> Path:
        """Left by faces for shard, which takes it away; not an output of either."""
        return _kept() / "strips" / f"{self.name}.zip"

    @property
    def receipts(self) -> Path:
        """Folder of what forget did, a file each; not an output of a stage, so DVC keeps it."""
        return Path("data", self.name, "forgotten")

    @property
    def shards(self) -> Path:
        """Made by shard."""
        return Path("data", self.name, "shards")

    @property
    def seen(self) -> Path:
        """Which shards train and eval found to be what the index says; not an output."""
        return _kept() / "seen" / f"{self.name}.json"

    @property
    def trains(self) -> Path:
        """Folder of the folds' models, made by train."""
        return Path("runs", self.name, "train")

    @property
    def calibrates(self) -> Path:
        """Folder of the folds' calibrated models, made by calibrate."""
        return Path("runs", self.name, "calibrate")

    @property
    def evals(self) -> Path:
        """Folder of the folds' predictions, made by eval."""
        return Path("runs", self.name, "eval")


SYNTHETIC = Path("data", "raw", "synthetic")
"""Made by synthesize."""

FORGOTTEN = Path("forgotten.csv")
"""Clips that never come back: written by forget, read by index, kept in git."""

RESULTS = Path("results")
"""Made by summary."""

INSPECTED = Path("inspected")
"""Pictures that inspect draws; not in git, since they show faces."""


def lock(out: Path) -> Path:
    """File that says which process is writing `out`; beside no output, so that DVC may delete."""
    return Path(".safe", "locks", fitting(str(out).strip("/").replace("/", "-"), more=0))


def checkpoints() -> Path:
    """Folder of training state."""
    return _kept() / "checkpoints"


def digests() -> Digests:
    """Return the sha256 of files as far as they were hashed before; not an output."""
    return Digests(_kept() / "seen" / "digests.json")


def source(config: Config, layout: Layout) -> "Path | StoredShards":
    """Return where train, calibrate and eval read the shards: runtime.shards, or a folder here.

    Raises:
        DataError: one line, if there are both and they differ: DVC takes the folder for what was
            read.
    """
    url = config.runtime.shards
    if url is None:
        return layout.shards
    from safe.shards.push import check_same

    store = open_store(config, url)
    check_same(layout.shards, store)
    return store


def clip_store(config: Config) -> "StoredClips | None":
    """Return where the raw clips are, if runtime.clips says so; None for data.root."""
    runtime = config.runtime
    if runtime.clips is None:
        return None
    from pipeline.pool.fetch import StoredClips

    return StoredClips(runtime.clips, runtime.patience)


def open_store(config: Config, url: str) -> "StoredShards":
    """Return the shards of a store as the section runtime says how to read them."""
    from safe.shards.cache import StoredShards  # here, so that `safe-cli --help` need not wait

    runtime = config.runtime
    return StoredShards(url, runtime.patience, tar_cache(), int(runtime.cache * 2**30))


def tar_cache() -> Path:
    """Folder of tars that came from a store."""
    return _kept() / "cache"


def plots_page() -> Path:
    """File that `dvc plots` fills in, made by cli/plots_page.py; `.dvc/config` names it.

    The braces are for a clone where it is not made yet: DVC then takes the path itself for the
    page, and puts there, as in its own page, the scripts from the network and the plots.
    """
    return _kept() / "plots{scripts}{plot_divs}.html"


def _kept() -> Path:
    """Return what DVC does not see: in the main project, also from its temporary workspaces."""
    return Path(os.environ.get("DVC_ROOT", ".")) / ".safe"


def read(params: Path, overrides: list[str] | None) -> tuple[Config, Layout]:
    """Parse params.yaml with its overrides. Raises ConfigError in one line."""
    from pipeline.datasets.registry import check_data

    config = load_config(params, overrides)
    check_data(config)
    return config, Layout(config.data.name)
