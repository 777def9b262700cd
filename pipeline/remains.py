"""What is left for a person to do after clips were forgotten?

SAFE reaches what it made in the project's folder. DVC's cache and remotes, git, trained models and
the raw data are in a person's hands: here stand the commands. Each was run with DVC 3.67 on a
project that held such clips.
"""

from typing import Any


def remains(receipt: dict[str, Any]) -> list[str]:
    """Return lines of plain words and commands for a receipt of pipeline.forget."""
    drawn = receipt["dataset"] == "synthetic"
    redrawn = " synthesize" if drawn and receipt["raw_deleted"] else ""
    return [
        *_raw(receipt, drawn=drawn),
        "A queued experiment starts from an older commit and would make the clips again:",
        "    dvc queue remove --queued",
        "Until DVC knows that the new files are right, `dvc checkout` brings the old ones back and",
        "`dvc repro` makes all shards anew. If `dvc status` was clean before:",
        f"    dvc commit -f index faces shard{redrawn}",
        *_models(receipt["models"]),
        "    git add forgotten.csv dvc.lock results && git commit -m 'Forget clips'",
        "The old files are still in DVC's cache, and in a remote that they were pushed to. This",
        "removes all that dvc.lock does not name, results of other experiments too (-a, -A and -T",
        "would keep what older commits name). Before `dvc repro` it would keep old predictions:",
        "    dvc gc -w      # with a remote: dvc gc -w -c",
        "Out of reach: other clones and their caches, backups, the dataset as it was downloaded,",
        "a store that shards were pushed to (empty it, then `safe-cli push-shards`),",
        "a store that holds the raw clips (runtime.clips; delete them there),",
        "and pictures and tables that were copied or are in git.",
    ]


def _raw(receipt: dict[str, Any], *, drawn: bool) -> list[str]:
    root, kept = receipt["root"], receipt["raw_kept"]
    lines = [f"The raw clip is still there (--raw deletes it): {root}/{path}" for path in kept]
    if kept:
        lines.append("From it, the code of an older commit can make all again.")
    if drawn:
        lines += [
            f"{root} is below the data folder: its lists still name the clips, and",
            "`safe-cli synthesize` draws them again.",
        ]
    return lines


def _models(models: list[str]) -> list[str]:
    if not models:
        return [
            "No model here was trained on these clips. To evaluate without them:",
            "    dvc repro",
        ]
    return [
        f"Trained on these clips: {', '.join(models)}",
        "A model forgets only when it is trained anew; this holds for models of experiments too:",
        "    dvc repro",
    ]
