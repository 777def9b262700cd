"""Findings of an examination: what is wrong, where, and what mends it.

`safe-cli doctor` is made of examinations: of the machine (cli/doctor.py), of the dataset
(pipeline/doctor.py), of shards, models and predictions (safe/doctor.py). Each gives facts, which
are shown, and findings, which decide the exit code.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partialmethod
from pathlib import Path
from typing import Any, Literal

from safe.errors import SafeError

Severity = Literal["error", "warning", "note"]
"""error: the next stage fails, or its metrics are wrong. warning: it runs, but look at it first.
note: not made yet, or worth knowing."""

Bar = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Shows progress: a title and a total in, a function that takes how many are done out."""

SHARDS_SUFFICE = "nothing to do: train and eval need the shards only"
"""Remedy for what came before the shards and is not here."""


@contextmanager
def silent(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show no progress."""
    del title, total
    yield lambda done: None


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be."""

    severity: Severity
    kind: str
    """A word for programs, such as raw-missing; it stays the same when the texts change."""
    where: str
    """A file, a folder or a parameter."""
    what: str
    """What is wrong there."""
    remedy: str
    """What mends it, with the command where there is one."""


@dataclass
class Examination:
    """What was looked at, and what was found; the methods add a finding each."""

    facts: dict[str, Any] = field(default_factory=dict)
    """Numbers and words by name; what JSON can hold."""
    findings: list[Finding] = field(default_factory=list)

    def tell(
        self, severity: Severity, kind: str, where: Path | str, what: str, remedy: str
    ) -> None:
        """Add a finding."""
        self.findings.append(Finding(severity, kind, str(where), what, remedy))

    error = partialmethod(tell, "error")
    warn = partialmethod(tell, "warning")
    note = partialmethod(tell, "note")

    def clips(
        self,
        kind: str,
        where: Path | str,
        clips: Sequence[str],
        told: str,
        remedy: str,
        *,
        what: str = "clip",
        severity: Severity = "error",
    ) -> None:
        """Add a finding of these clips if there are any: `2 clips <told>: 00001, 00002`.

        `{}` in `told` is where their number goes, at the beginning by default.
        """
        if clips:
            text = told if "{}" in told else f"{{}} {told}"
            text = text.replace("{}", number(len(clips), what))
            self.tell(severity, kind, where, f"{text}: {some(clips)}", remedy)

    def refused(self, kind: str, where: Path | str, error: SafeError, remedy: str) -> None:
        """Add an error that a reader raised. Its text is `location: what is wrong; its remedy`."""
        location, _, text = str(error).partition(": ")
        if not text or not location.startswith(str(where)):  # it names no location, or another one
            location, text = str(where), str(error)
        self.error(kind, location, text.rpartition("; ")[0] or text, remedy)


def some(names: Sequence[str], most: int = 3) -> str:
    """List the first few names: `00001, 00002, 00003 and 9 more`."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest:,} more" if rest > 0 else "")


def number(count: int, what: str) -> str:
    """Write a count with its noun: `1 clip`, `1,200 clips`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def tell_forgotten(found: Examination, where: Path, clips: Sequence[str]) -> None:
    """Add an error if there are clips of forgotten.csv, `clips`, in a file or folder."""
    keys = " ".join(clips) if len(clips) < 4 else "--file LIST"
    remedy = f"`safe-cli forget {keys}` takes {'it' if len(clips) == 1 else 'them'} out everywhere"
    found.clips("forgotten", where, clips, "holds {} of forgotten.csv", remedy)


def tell_duplicates(
    found: Examination, what: str, where: Path, groups: list[list[tuple[str, str]]]
) -> None:
    """Add what it means that clips have the same content.

    Args:
        found: gets an error `<what>-leak` for groups in two buckets, a warning `<what>-twice` for
            groups in one.
        what: the content: raw or faces.
        where: the folder.
        groups: of two and more clips, each by key and bucket.
    """
    leaks = [group for group in groups if len({bucket for _, bucket in group}) > 1]
    twice = [group for group in groups if group not in leaks]
    for tell, kind, part, told in (
        (found.error, "leak", leaks, "in two buckets: what tests one fold trains another"),
        (found.warn, "twice", twice, "in one bucket"),
    ):
        if part:
            names = [" = ".join(f"{key} ({bucket})" for key, bucket in group) for group in part]
            tell(
                f"{what}-{kind}",
                where,
                f"same content {told}: {some(names)}",
                f"keep one of each: `safe-cli forget {part[0][-1][0]}` takes a clip out",
            )
