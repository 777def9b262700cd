"""Experiments that DVC holds: parameters, metrics and files of each, and which one a Config means.

In: a folder under DVC. Out: its experiments and commits. DVC is asked in this process, by its own
Repo: `dvc.api.exp_show` gives revisions and numbers only as they are printed, shortened.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Final, Literal

from safe.config import Config
from safe.errors import ConfigError, DataError
from safe.params import parse_config

State = Literal["done", "waiting", "failed"]
_STATES: Final[dict[str, State]] = {"success": "done", "queued": "waiting", "running": "waiting"}


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
    """Local time, as ISO 8601 has it but for a blank in place of T."""
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
    """Name the run by the parameters that decide its metrics: 64 hex digits.

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


def held(root: Path) -> list[Held]:
    """List the experiments and commits with results. Raises as known() does."""
    return [one for one in known(root) if one.state == "done"]


def known(root: Path) -> list[Held]:
    """List what is held, waits in the queue or is running, and has failed.

    A commit or experiment is held where DVC finds results/metrics.json, and dvc.lock says that its
    stages ran with the parameters beside it: after an edit of params.yaml alone, or a run of some
    stages, the metrics are those of other parameters.

    Raises:
        DataError: if `root` is not a DVC and git repository, or DVC fails.
    """
    from dvc.exceptions import DvcException  # type: ignore[import-untyped]
    from dvc.repo import Repo  # type: ignore[import-untyped]
    from scmrepo.exceptions import SCMError  # type: ignore[import-not-found,unused-ignore]

    try:
        with Repo(str(root)) as repo:
            shown = repo.experiments.show(all_commits=True)
            every = list(parse_shown(one.dumpd() for one in shown))
            return [
                one
                for one in every
                if one.state != "done" or is_of_its_params(_lock(repo, one.rev), one.params)
            ]
    except (DvcException, SCMError, OSError) as error:
        raise DataError(f"dvc exp show: {' '.join(str(error).split())}") from error


def parse_shown(shown: Iterable[dict[str, Any]]) -> Iterator[Held]:
    """Read the states of DVC's experiments as dicts; done ones without metrics are left out."""
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
        created=str(data.get("timestamp") or ""),
        params=params,
        metrics=files.get("results/metrics.json", {}).get("data") or {},
        state=state,
    )


def _lock(repo: Any, rev: str) -> dict[str, Any]:
    """Read dvc.lock at a revision; empty where there is none."""
    from dvc.utils.serialize import parse_yaml  # type: ignore[import-untyped]

    path = (Path(repo.root_dir) / "dvc.lock").relative_to(repo.scm.root_dir).as_posix()
    try:
        with repo.scm.get_fs(rev).open(path, "rb") as file:
            return parse_yaml(file.read().decode(), path) or {}
    except FileNotFoundError:
        return {}


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


def read_out(root: Path, rev: str, path: str) -> bytes:
    """Read a file below an output of a stage, by its path from the root, as it was at a revision.

    Raises:
        DataError: if it was not made there, or is in no cache or remote that can be reached.
    """
    from dvc.exceptions import DvcException
    from dvc_data.index.index import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
        DataIndexError,
        StorageError,
    )

    try:
        data: bytes = _files(root.absolute(), rev).read_bytes(path)
    except (OSError, DvcException, DataIndexError, StorageError) as error:
        raise DataError(
            f"{path} of {rev[:7]}: not in the cache; get it by `dvc pull`, or remove the "
            "experiment by `dvc exp remove` and run it again"
        ) from error
    return data


@lru_cache(maxsize=256)
def _files(root: Path, rev: str) -> Any:
    from dvc.api import DVCFileSystem  # type: ignore[import-untyped]

    return DVCFileSystem(url=str(root), rev=rev)
