"""Where does each stage read and write? The same paths stand in dvc.yaml."""

import os
from dataclasses import dataclass
from pathlib import Path

from safe.config import Config
from safe.errors import ModelError
from safe.files import fitting
from safe.params import load_config
from safe.shards.store import Store


@dataclass(frozen=True)
class Layout:
    """Paths of one dataset, relative to the project's folder."""

    name: str

    @property
    def manifest(self) -> Path:
        """Made by index."""
        return Path("data", self.name, "manifest.parquet")

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


def find_model(run: Path) -> Path:
    """Find the model folder that a user means: the folder itself, or a run's one calibrated fold.

    Args:
        run: a folder with model.json; or one with calibrate/fold-<k>, or else train/fold-<k>.

    Raises:
        ModelError: if there is none, or several folds to choose from.
    """
    if (run / "model.json").is_file():
        return run
    for stage in ("calibrate", "train"):
        folds = sorted(path.parent for path in run.glob(f"{stage}/fold-*/model.json"))
        if len(folds) > 1:
            raise ModelError(f"{run}: several models; choose one of {', '.join(map(str, folds))}")
        if folds:
            return folds[0]
    raise ModelError(
        f"{run}: no model there, nor in calibrate/ or train/; `safe-cli train` makes it"
    )


def source(config: Config, layout: Layout) -> Path | Store:
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


def clip_store(config: Config) -> Store | None:
    """Return where the raw clips are, if runtime.clips says so; None for data.root."""
    runtime = config.runtime
    return None if runtime.clips is None else Store(runtime.clips, runtime.patience)


def open_store(config: Config, url: str) -> Store:
    """Return a store as the section runtime says how to read it."""
    runtime = config.runtime
    return Store(url, runtime.patience, tar_cache(), int(runtime.cache * 2**30))


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
