"""Several ranks of `train` started on this machine by one command, and its word when one fails."""

import logging
import os
import signal
import sys
from pathlib import Path
from uuid import uuid4

from safe.errors import ProcessError


def launch_train(params: Path, overrides: list[str] | None, fold: int | None, nproc: int) -> None:
    """Run `train` as nproc processes, as torchrun does; when one fails, the others are ended.

    A rank that fails says why itself, and its exit code becomes that of this process.

    Raises:
        ProcessError: if a rank was killed.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.disable(logging.ERROR)  # of the launcher in this process: what it says is said below
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // nproc)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=nproc,
        run_id=uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        max_restarts=0,
    )
    command = ["-m", "cli", "train", "--params", str(params)]
    command += [] if fold is None else ["--fold", str(fold)]
    command += [part for override in overrides or [] for part in ("--set", override)]
    try:
        elastic_launch(config, sys.executable)(*command)
    except SignalException as error:
        raise KeyboardInterrupt from error
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode > 0:
            sys.exit(failure.exitcode)
        name = signal.Signals(-failure.exitcode).name
        raise ProcessError(
            f"train: rank {rank} of {nproc} was killed by {name} (out of memory?), and the others "
            "are ended; the same command goes on from the last checkpoint"
        ) from error
