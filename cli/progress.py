"""Progress of a long command on stderr, a bar, a rate and the time left; and lines of result."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from safe.errors import printable


class _Rate(ProgressColumn):
    """Things a second since the start."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s")


@contextmanager
def progress(title: str, total: int | None) -> Iterator[Callable[..., None]]:
    """Show a bar; the value given is a function that takes how many are done.

    It also takes of how many, as a second argument, where that is not known from the start; there
    is no rate then, because such things come in batches.
    """
    columns = (
        TextColumn("{task.description}", markup=False),  # [id] in a name is no style
        BarColumn(),
        MofNCompleteColumn(),
        *([] if total is None else [_Rate()]),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(printable(title), total=total)

        def done(count: int, total: int | None = total) -> None:
            bar.update(task, completed=count, total=total)

        yield done


def say(text: str) -> None:
    """Print lines of result. What a terminal would act on in them is written out.

    Line ends are kept: who puts a foreign name into a text of several lines makes it printable.
    """
    for line in text.split("\n"):
        print(printable(line))


def note(line: str) -> None:
    """Print one line about how the run goes, which is no result, on stderr."""
    print(printable(line), file=sys.stderr)


def counts(title: str, numbers: dict[str, int]) -> str:
    """Format counts as one line: `faces: 48 clips: 40 ok, 4 partial`."""
    parts = ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in numbers.items() if n)
    return f"{title}: {parts or 'nothing'}"
