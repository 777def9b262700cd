"""How are the stages of data preparation called? One function of pipeline each."""

from pathlib import Path
from typing import TYPE_CHECKING

from cli.layout import FORGOTTEN, SYNTHETIC, Layout, clip_store, lock, read
from cli.progress import counts, note, progress, say
from cli.push import check_reach, push_made
from safe.config import Config
from safe.process import only_one

if TYPE_CHECKING:
    from pipeline.tasks.cluster import Cluster


def run_synthesize(params: Path, overrides: list[str] | None) -> None:
    """Make the synthetic dataset; for another dataset only its empty folder, which DVC expects."""
    config, _ = read(params, overrides)
    if config.data.name != "synthetic":
        SYNTHETIC.mkdir(parents=True, exist_ok=True)
        say(f"synthesize: nothing to do, data.name is {config.data.name}")
        return
    from pipeline.datasets.synthetic import synthesize

    settings, root = config.synthesize, Path(config.data.root)
    with only_one(lock(root), str(root)), progress("synthesize", settings.clips) as done:
        made = synthesize(
            root,
            settings,
            source="strips" if config.data.source == "strips" else "video",
            frames=config.shard.frames,
            workers=_processes(config),
            on_clip=done,
        )
    say(counts(f"synthesize: {settings.clips} clips", made))


def run_index(params: Path, overrides: list[str] | None) -> None:
    """Write the manifest."""
    config, layout = read(params, overrides)
    _index(config, layout)


def run_faces(params: Path, overrides: list[str] | None) -> None:
    """Write the face table."""
    config, layout = read(params, overrides)
    _faces(config, layout)


def run_shard(params: Path, overrides: list[str] | None) -> None:
    """Write the shards, after index and faces where their tables are missing; send them."""
    config, layout = read(params, overrides)
    from pipeline.manifest import read_manifest
    from pipeline.shard import write_shards

    if not layout.manifest.exists():
        say(f"shard: {layout.manifest} is missing, running index first")
        _index(config, layout)
    if not layout.faces.exists():
        say(f"shard: {layout.faces} is missing, running faces first")
        _faces(config, layout)
    check_reach(config)
    total = read_manifest(layout.manifest).num_rows
    with only_one(lock(layout.shards), str(layout.shards)), progress("shard", total) as done:
        made = write_shards(
            layout.manifest,
            layout.faces,
            Path(config.data.root),
            layout.shards,
            settings=config.shard,
            faces_settings=config.faces,
            workers=_processes(config),
            deadline=config.runtime.deadline,
            memory=config.runtime.memory,
            store=clip_store(config),
            cluster=_cluster(config, "shard"),
            leftover=layout.strips,
            on_done=done,
        )
    say(counts("shard", made))
    push_made(config, layout)


def _index(config: Config, layout: Layout) -> None:
    from pipeline.index import build_index

    with only_one(lock(layout.manifest), str(layout.manifest)):
        made = build_index(
            config.data,
            layout.manifest,
            forgotten=FORGOTTEN,
            store=clip_store(config),
            on_note=lambda note: say(f"index: {note}"),
        )
    say(counts("index", made))


def _faces(config: Config, layout: Layout) -> None:
    from pipeline.face.leftover import Leave
    from pipeline.faces import find_faces
    from pipeline.manifest import read_manifest

    total = read_manifest(layout.manifest).num_rows
    with only_one(lock(layout.faces), str(layout.faces)), progress("faces", total) as done:
        found = find_faces(
            layout.manifest,
            Path(config.data.root),
            layout.faces,
            settings=config.faces,
            frames=config.shard.frames,
            workers=_processes(config),
            deadline=config.runtime.deadline,
            memory=config.runtime.memory,
            store=clip_store(config),
            cluster=_cluster(config, "faces"),
            leave=Leave(layout.strips, config.shard),
            on_done=done,
        )
    say(counts(f"faces: {total} clips", found))


def _cluster(config: Config, verb: str) -> "Cluster | None":
    """Return the Dask cluster that runtime.engine names; None for this machine."""
    runtime, data = config.runtime, config.data
    if runtime.engine == "local":
        return None
    from pipeline.tasks.cluster import Cluster

    # With the clips in a store, workers need no file of ours.
    witness = (Path(data.root) / data.splits).absolute() if runtime.clips is None else None
    return Cluster(
        runtime.engine,
        witness=witness,
        retries=runtime.retries,
        patience=runtime.patience,
        on_note=lambda line: note(f"{verb}: {line}"),
    )


def _processes(config: Config) -> int:
    """Processes of data preparation: at least one, since decoding always runs in a child."""
    return max(1, config.runtime.workers)
