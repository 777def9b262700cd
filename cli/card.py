"""Where does the card of a run's model find its evaluation and its shards?"""

from pathlib import Path

from cli.layout import Layout, find_model
from cli.progress import say


def run_card(run: Path, evaluation: Path | None, out: Path) -> None:
    """Write the card of a run's model, with its evaluation where there is one."""
    folder = find_model(run)
    from safe.card import write_card
    from safe.saved import read_info

    if evaluation is None:  # runs/<name>/calibrate/fold-1 has its evaluation in eval/fold-1
        beside = folder.parent.parent / "eval" / folder.name
        evaluation = beside if (beside / "metrics.json").is_file() else None
    shards = Layout(str(read_info(folder / "model.json").get("dataset"))).shards
    there = (shards / "index.json").is_file()
    write_card(folder, out, evaluation=evaluation, shards=shards if there else None)
    say(f"card: {folder} in {out}, {_words(evaluation)}")


def _words(evaluation: Path | None) -> str:
    if evaluation is None:
        return "without figures: no evaluation beside it; `safe-cli eval` makes one"
    return f"with the figures of {evaluation}"
