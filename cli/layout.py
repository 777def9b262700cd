"""Paths that each stage reads and writes, the same as in dvc.yaml, and what of a clip is where.

`places` is the one list of what forget looks through: a path that is added here and is not in it
fails a test (tests/test_forget.py), and so does a file that the stages write and it lacks.
"""

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Final

from safe.config import Config
from safe.files import fitting
from safe.params import load_config
from safe.record import Digests

if TYPE_CHECKING:
    from pipeline.forget import Holds
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

ANSWERS = Path("predictions")
"""Folder of what predict writes, unless it is told another one."""

OUTS: Final[dict[str, "Holds"]] = {
    "predict": "answers",
    "inspect": "whole",
    "report": "whole",
    "table": "whole",
    "card": "nothing",
    "export": "nothing",
}
"""Verbs that write where --out says, and what of a clip is there; `note_out` keeps the place."""


def places(layout: Layout) -> dict[str, "Holds"]:
    """Return every place that a verb writes to, as a pattern, and what of a clip is there."""
    from safe.evaluation.sheet import find_sheet, sheet_names

    cases = [name for name in sheet_names() if find_sheet(name).draw == "cases"]
    folds = {out: f"{out}/fold-*" for out in (layout.trains, layout.calibrates, layout.evals)}
    return {
        str(layout.manifest): "rows",
        str(layout.factors): "rows",
        str(layout.faces): "rows",
        str(layout.shards): "samples",
        f"{folds[layout.calibrates]}/predictions.parquet": "rows",
        f"{folds[layout.evals]}/predictions.parquet": "rows",
        f"{folds[layout.trains]}/*": "nothing",
        f"{folds[layout.calibrates]}/model.*": "nothing",
        f"{folds[layout.evals]}/metrics.json": "nothing",
        str(layout.strips): "whole",
        f"{checkpoints()}/*/*.safetensors": "whole",  # TAM's bank in it holds clips
        f"{checkpoints()}/*/lock": "nothing",
        f"{tar_cache()}/*.tar": "whole",
        f"{tar_cache()}/*.part": "whole",
        f"{tar_cache()}/lock": "nothing",
        f"{INSPECTED}/*": "whole",
        f"{RESULTS}/report.html": "whole",
        **{f"{RESULTS}/experiments/{name}*.png": "whole" for name in cases},
        f"{RESULTS}/*": "nothing",
        str(ANSWERS): "answers",
        # What is left of a killed `dvc exp run --temp`, or of a worker of DVC's queue.
        ".dvc/tmp/exps/tmp*": "workspace",
        ".dvc/tmp/exps/standalone/tmp*": "workspace",
        **_noted_outs(),
        f"{layout.receipts}/*": "nothing",
        str(FORGOTTEN): "nothing",
        str(SYNTHETIC): "nothing",  # the raw clips of --raw
        str(layout.seen.parent): "nothing",
        str(lock(Path()).parent): "nothing",
        str(_outs()): "nothing",
        str(plots_page()): "nothing",
    }


def note_out(verb: str, out: Path) -> Path:
    """Keep where a verb is about to write what shows clips, for forget; return `out`.

    Only in a project's folder: whoever asks for answers elsewhere has no data set to forget of.
    """
    if OUTS[verb] != "nothing" and Path("params.yaml").is_file():
        at, project = out.absolute(), _kept().parent.absolute()
        place = at.relative_to(project) if at.is_relative_to(project) else at
        line = json.dumps([OUTS[verb], str(place)]) + "\n"
        with suppress(OSError):  # a folder in which nothing may be written, so nothing is forgotten
            _outs().parent.mkdir(parents=True, exist_ok=True)
            if line not in (_outs().read_text("utf-8") if _outs().exists() else ""):
                with _outs().open("a", encoding="utf-8") as file:
                    file.write(line)
    return out


def _noted_outs() -> dict[str, "Holds"]:
    try:
        lines = _outs().read_text("utf-8").splitlines()
        return {escape(path): holds for holds, path in map(json.loads, lines)}
    except FileNotFoundError:
        return {}


def _outs() -> Path:
    """Return the file that says where verbs wrote by --out."""
    return _kept() / "outs"


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
