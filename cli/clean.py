"""The verb clean: training states of runs that were given up are deleted."""

from contextlib import suppress

from cli.layout import checkpoints
from cli.progress import say
from safe.errors import ProcessError
from safe.files import hold_lock
from safe.finding import number


def run_clean(days: float) -> None:
    """Delete the states of trainings that stopped so many days ago, and say what that gave back.

    A run that begins again meanwhile keeps its own.
    """
    from safe.training.checkpoint import LOCK, abandoned, remove_checkpoints

    found = abandoned(checkpoints())
    old = [state for state in found if state.days >= days]
    for state in old:
        with (
            suppress(ProcessError),
            hold_lock(state.folder / LOCK, f"training state {state.folder}"),
        ):
            remove_checkpoints(state.folder)
            say(f"clean: {state.folder}: {state.bytes / 2**20:,.0f} MiB, {state.days:.1f} days old")
    kept = len(found) - len(old)
    say(f"clean: {number(len(old), 'training state')} deleted, {kept} younger than {days:g} days")
