"""The verb forget: whose clips go, everybody else kept out meanwhile, and the receipt."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cli.layout import FORGOTTEN, INSPECTED, RESULTS, Layout, checkpoints, lock, read, tar_cache
from cli.progress import say
from pipeline.forget import Places, Receipt, forget
from safe.errors import ConfigError
from safe.evaluation.sheet import find_sheet, sheet_names
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
    """Take clips out of the dataset of params.yaml, and say what was done and what remains."""
    config, layout = read(params, overrides)
    wanted = clips + (_keys(file) if file else [])
    if not wanted:
        raise ConfigError("forget: name a clip by its key, or give a list by --file")
    with _alone(layout, config.data.folds):
        receipts = forget(wanted, _places(layout), config.data, raw=raw, dry_run=dry_run)
    for receipt in receipts:
        _tell(receipt, layout)
    now = {clip for receipt in receipts for clip in receipt["clips"]}
    if before := sorted(set(wanted) - now):
        say(f"forget: forgotten before, in no table and no shard: {', '.join(before)}")


@contextmanager
def _alone(layout: Layout, numbers: list[int]) -> Iterator[None]:
    """Keep every other run out of what is changed, and trainings of these shards too."""
    stages = (layout.trains, layout.calibrates, layout.evals)
    names = {f"fold-{k}" for k in numbers} | {
        at.name for out in stages for at in out.glob("fold-*")
    }
    folds = [out / name for name in sorted(names) for out in stages]
    locations = {lock(out): out for out in (layout.manifest, layout.faces, layout.shards, *folds)}
    locations |= {file: file.parent for file in checkpoints().glob("*/lock")}
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


def _places(layout: Layout) -> Places:
    sheets = [name for name in sheet_names() if find_sheet(name).draw == "cases"]
    return Places(
        manifest=layout.manifest,
        factors=layout.factors,
        faces=layout.faces,
        shards=layout.shards,
        evals=layout.evals,
        calibrates=layout.calibrates,
        trains=layout.trains,
        strips=layout.strips,
        checkpoints=checkpoints(),
        pictures=(
            *(RESULTS / "experiments" / f"{name}.png" for name in sheets),
            RESULTS / "report.html",
            *INSPECTED.glob("*"),
            *tar_cache().glob("*.tar"),
        ),
        forgotten=FORGOTTEN,
        receipts=layout.receipts,
    )


def _tell(receipt: Receipt, layout: Layout) -> None:
    """Print a receipt."""
    dry = receipt["finished"] is None
    clips = receipt["clips"]
    say(f"{'dry run: ' if dry else ''}forget: {len(clips)} clips of {receipt['dataset']}")
    for path, count in receipt["removed"].items():
        say(f"  {path}: {count} rows")
    for name, entry in receipt["shards"].items():
        gone = not dry and entry["after"] is None
        say(f"  {layout.shards / name}: {entry['clips']} clips{'; no other was in it' * gone}")
    if receipt["left_out"]:
        say(f"  {layout.shards / 'index.json'}: {receipt['left_out']} of the clips left out")
    raw = [f"{receipt['root']}/{path}" for path in receipt["raw_deleted"]]
    for path in receipt["deleted"] + raw:
        say(f"  {path}: deleted as a whole")
    say("What remains to be done:")
    for line in receipt["to_do"]:
        say(f"  {line}")
