"""What experiments does DVC hold?

In: a folder under DVC. Out: its experiments and commits with their parameters and figures, which of
them is the run of a Config, and the files that it left. DVC is asked by its command line for what
there is, and by dvc.api for a file at a revision.
"""

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import yaml

from safe.config import Config
from safe.errors import ConfigError, DataError
from safe.params import EXPONENT, parse_config

State = Literal["done", "waiting", "failed"]
_STATES: dict[str, State] = {"success": "done", "queued": "waiting", "running": "waiting"}


@dataclass(frozen=True)
class Held:
    """One experiment, or one commit, as DVC knows it."""

    rev: str
    """Of git, in full; for one that waits in the queue, of its entry there."""
    name: str
    """Of the experiment, or of the commit's branch or tag, or the short revision."""
    commit: str
    """On which the experiment was run, in full; for a commit, itself."""
    created: str
    """Local time, ISO 8601."""
    params: dict[str, Any] = field(repr=False)
    """What params.yaml holds there."""
    metrics: dict[str, Any] = field(repr=False)
    """What results/metrics.json holds there; empty before it is made."""
    state: State = "done"

    @cached_property
    def config(self) -> Config | None:
        """Its parameters; None if they are not those of today's params.yaml."""
        try:
            return parse_config(self.params)
        except ConfigError:
            return None

    @cached_property
    def identity(self) -> str | None:
        """What the function of this name gives for its parameters, or None."""
        return identity(self.config) if self.config else None


def identity(config: Config) -> str:
    """Name the run by the parameters that decide its figures: 64 hex digits.

    Left out are where it runs (runtime), where the data lie (data.root), how synthetic data are
    made unless they are used, and data.folds, since each fold is trained by itself.
    """
    values = config.model_dump(exclude={"runtime": True, "data": {"root", "folds"}})
    if config.data.name != "synthetic":
        del values["synthesize"]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def matching(config: Config, held: Iterable[Held]) -> Held | None:
    """Return the newest run of the same identity that has all folds of `config`, or None."""
    wanted, folds = identity(config), set(config.data.folds)
    same = (
        one
        for one in held
        if one.identity == wanted and one.config and folds <= set(one.config.data.folds)
    )
    return max(same, key=lambda one: one.created, default=None)


def known(root: Path) -> list[Held]:
    """List what is held, waits in the queue or is running, and has failed.

    A commit or experiment is held where `dvc exp show --all-commits` finds results/metrics.json,
    and dvc.lock says that its stages ran with the parameters beside it: after an edit of
    params.yaml alone, or a run of some stages, the figures are those of other parameters.

    Raises:
        DataError: if `root` is not a DVC and git repository, or dvc fails.
    """
    shown = json.loads(run_dvc(root, "exp", "show", "--json", "--all-commits"))
    every = list(parse_shown(shown))
    locks = _locks(root, [one.rev for one in every if one.state == "done"])
    return [
        one
        for one in every
        if one.state != "done" or is_of_its_params(locks.get(one.rev, {}), one.params)
    ]


def held(root: Path) -> list[Held]:
    """List the experiments and commits with results. Raises as known() does."""
    return [one for one in known(root) if one.state == "done"]


def parse_shown(shown: list[dict[str, Any]]) -> Iterator[Held]:
    """Read what `dvc exp show --json` prints; done ones without metrics are left out."""
    for commit in shown:
        if commit["rev"] == "workspace":
            continue
        one = _entry(commit, commit["rev"], "done")
        if one and one.metrics:
            yield one
        for experiment in commit.get("experiments") or []:
            executor = experiment["executor"]
            state = _STATES.get(executor["state"], "failed") if executor else "done"
            one = _entry(experiment["revs"][0], commit["rev"], state)
            if one and (one.metrics or state != "done"):
                yield one


def _entry(shown: Mapping[str, Any], commit: str, state: State) -> Held | None:
    data = shown.get("data") or {}
    files = {**data.get("params", {}), **data.get("metrics", {})}
    params = files.get("params.yaml", {}).get("data")
    if not isinstance(params, dict):
        return None
    return Held(
        rev=shown["rev"],
        name=shown.get("name") or shown["rev"][:7],
        commit=commit,
        created=data.get("timestamp") or "",
        params=params,
        metrics=files.get("results/metrics.json", {}).get("data") or {},
        state=state,
    )


def is_of_its_params(lock: Mapping[str, Any], params: Mapping[str, Any]) -> bool:
    """Say whether dvc.lock records that the evaluation of every fold ran with `params`.

    True if each stage from the raw data to `eval@<fold>` is in the lock, with the values of
    `params`, on the very files that the stage before it made.
    """
    stages = lock.get("stages", {})
    made = {out["path"]: (name, out["md5"]) for name, s in stages.items() for out in s["outs"]}
    to_check = [f"eval@{fold}" for fold in params.get("data", {}).get("folds", [])]
    checked: set[str] = set()
    if not to_check:
        return False
    while to_check:
        name = to_check.pop()
        if name in checked:
            continue
        checked.add(name)
        stage = stages.get(name)
        if stage is None:
            return False
        for key, value in stage.get("params", {}).get("params.yaml", {}).items():
            if _value(params, key) != value:
                return False
        for dep in stage.get("deps", []):
            path = Path(dep["path"])
            maker = next((str(p) for p in (path, *path.parents) if str(p) in made), None)
            if maker is None:
                continue  # code, or the raw data of a real dataset
            before, md5 = made[maker]
            if maker == dep["path"] and md5 != dep["md5"]:
                return False
            to_check.append(before)
    return True


def _value(params: Mapping[str, Any], key: str) -> Any:
    found: Any = params
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


class _LockLoader(yaml.CSafeLoader):
    """Fast, and reads the numbers that DVC writes."""


_LockLoader.add_implicit_resolver(*EXPONENT)


def _locks(root: Path, revs: list[str]) -> dict[str, dict[str, Any]]:
    """Read dvc.lock at each revision that has one, by one call of git."""
    asked = "".join(f"{rev}:./dvc.lock\n" for rev in revs)
    answer = _output(["git", "cat-file", "--batch"], root, stdin=asked.encode())
    found, place = {}, 0
    for rev in revs:
        end = answer.index(b"\n", place)
        words = answer[place:end].split()
        place = end + 1
        if words[-1].isdigit():  # <hash> blob <bytes>; else: <what was asked> missing
            size = int(words[-1])
            found[rev] = yaml.load(answer[place : place + size], Loader=_LockLoader)
            place += size + 1
    return found


def read_out(root: Path, rev: str, path: str) -> bytes:
    """Read a file below an output of a stage, as it was at a revision.

    Args:
        root: the repository.
        rev: of git.
        path: from the root, e.g. runs/synthetic/eval/fold-5/predictions.parquet.

    Raises:
        DataError: if it was not made there, or is in no cache or remote that can be reached.
    """
    from dvc.exceptions import DvcException  # type: ignore[import-untyped]

    try:
        data: bytes = _files(root.absolute(), rev).read_bytes(path)
    except (OSError, DvcException) as error:
        raise DataError(
            f"{path} of {rev[:7]}: not in the cache; get it by `dvc pull`, or remove the "
            "experiment by `dvc exp remove` and run it again"
        ) from error
    return data


@lru_cache(maxsize=256)
def _files(root: Path, rev: str) -> Any:
    # Imported here: it takes half a second, and only a table needs it.
    from dvc.api import DVCFileSystem  # type: ignore[import-untyped]

    return DVCFileSystem(url=str(root), rev=rev)


def run_dvc(root: Path, *words: str) -> bytes:
    """Run DVC in `root` and return what it prints. Raises DataError with the reason it gives."""
    return _output(["dvc", *words], root, program=[sys.executable, "-m"])


def _output(
    words: list[str], root: Path, *, program: Sequence[str] = (), stdin: bytes | None = None
) -> bytes:
    command = [*program, *words]
    done = subprocess.run(command, cwd=root, input=stdin, capture_output=True, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise DataError(f"{' '.join(words[:4])}: {said[-1].removeprefix('ERROR: ')}")
    return done.stdout
