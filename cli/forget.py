"""The verb forget: whose clips go, everybody else kept out meanwhile, and the receipt."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

from cli.layout import FORGOTTEN, Layout, checkpoints, lock, places, read
from cli.progress import say
from pipeline.forget import Places, Receipt, forget
from pipeline.videos import LOCK
from safe.errors import ConfigError, ProcessError
from safe.files import hold_lock


def run_forget(
    params: Path,
    overrides: list[str] | None,
    clips: list[str],
    file: Path | None,
    *,
    raw: bool,
    dry_run: bool,
) -> None:
    """Take clips out of the dataset of params.yaml, and say what was done and what remains.

    Without clips a run that was killed is completed.
    """
    config, layout = read(params, overrides)
    wanted, where = clips + (_keys(file) if file else []), places_of(layout)
    with _alone(layout, config.data.folds, where):
        receipts = forget(wanted, where, config.data, raw=raw, dry_run=dry_run)
    if not wanted and not receipts:
        raise ConfigError(
            "forget: name a clip by its key, or give a list by --file; no earlier run is unfinished"
        )
    for receipt in receipts:
        _tell(receipt, layout)
    now = {clip for receipt in receipts for clip in receipt["clips"]}
    if before := sorted(set(wanted) - now):
        say(f"forget: forgotten before, in no table and no shard: {', '.join(before)}")


@contextmanager
def _alone(layout: Layout, numbers: list[int], where: Places) -> Iterator[None]:
    """Keep every other run out of what is changed, and trainings of these shards too.

    Raises:
        ProcessError: if another process is at work there.
    """
    stages = (layout.trains, layout.calibrates, layout.evals)
    names = {f"fold-{k}" for k in numbers} | {
        at.name for out in stages for at in out.glob("fold-*")
    }
    folds = [out / name for name in sorted(names) for out in stages]
    locations = {lock(out): out for out in (layout.manifest, layout.faces, layout.shards, *folds)}
    locations |= {file: file.parent for file in checkpoints().glob("*/lock")}
    locations |= {folder / LOCK: folder for folder in where.find("answers")}
    busy = {folder.resolve() for folder in where.find("workspace")}
    for process in psutil.process_iter(["cwd"]) if busy else ():
        at = Path(process.info["cwd"] or "/")
        if at in busy or busy.intersection(at.parents):
            raise ProcessError(f"{at}: process {process.pid} runs an experiment; wait or stop it")
    with ExitStack() as held:
        for file, out in sorted(locations.items()):
            held.enter_context(hold_lock(file, str(out)))
        yield


def _keys(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--file {file}: cannot be read: {error}") from error
    return [line.strip() for line in lines if line.strip()]


def places_of(layout: Layout, root: Path = Path()) -> Places:
    """Return where the clips of a dataset may lie in a project's folder."""
    return Places(
        manifest=root / layout.manifest,
        shards=root / layout.shards,
        trains=root / layout.trains,
        forgotten=root / FORGOTTEN,
        receipts=root / layout.receipts,
        holds=places(layout),
        root=root,
    )


def _tell(receipt: Receipt, layout: Layout) -> None:
    """Print a receipt."""
    dry = receipt["finished"] is None
    clips = receipt["clips"]
    say(f"{'dry run: ' if dry else ''}forget: {len(clips)} clips of {receipt['dataset']}")
    for clip, other in receipt.get("same", {}).items():
        say(f"  {clip} has the same bytes as {other}, and goes too")
    for path, count in receipt["removed"].items():
        say(f"  {path}: {count} rows")
    for name, entry in receipt["shards"].items():
        gone = not dry and entry["after"] is None
        say(f"  {layout.shards / name}: {entry['clips']} clips{'; no other was in it' * gone}")
    if receipt["left_out"]:
        say(f"  {layout.shards / 'index.json'}: {receipt['left_out']} of the clips left out")
    for folder, videos in receipt.get("answers", {}).items():
        say(f"  {folder}: all about {', '.join(videos)}")
    raw = [f"{receipt['root']}/{path}" for path in receipt["raw_deleted"]]
    for path in receipt["deleted"] + raw:
        say(f"  {path}: deleted as a whole")
    say("What remains to be done:")
    for line in receipt["to_do"]:
        say(f"  {line}")
