"""Several ranks of `train` started on this machine by one command, and its word when one fails.

On one machine they meet in a file of a folder that is this user's alone, and speak on loopback: no
one else can connect. Over several machines each starts its own by the same command, and the first
one opens a port at the address that the user names.
"""

import logging
import os
import signal
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from safe.cores import cores
from safe.errors import ConfigError, ProcessError

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure


def launch_train(params: Path, overrides: list[str] | None, fold: int | None, nproc: int) -> None:
    """Run `train` as nproc processes; when one fails, the others are ended.

    A rank that fails says why itself, and its exit code becomes that of this process.

    Raises:
        ConfigError: if the environment does not say which of the machines this is.
        ProcessError: if a rank was killed.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, start_processes
    from torch.distributed.elastic.multiprocessing.api import SignalException

    machines, number = _machines()
    logging.disable(logging.ERROR)  # of the launcher in this process: what it says is said below
    command = ["-m", "cli", "train", "--params", str(params)]
    command += [] if fold is None else ["--fold", str(fold)]
    command += [part for override in overrides or [] for part in ("--set", override)]
    with TemporaryDirectory(prefix="safe-ranks-") as folder:
        shared = {
            "WORLD_SIZE": str(machines * nproc),
            "LOCAL_WORLD_SIZE": str(nproc),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, cores() // nproc))),
        }
        if machines == 1:
            shared["SAFE_RANKS"] = str(Path(folder, "store"))
        ranks = {k: {"RANK": str(number * nproc + k), "LOCAL_RANK": str(k)} for k in range(nproc)}
        try:
            started = start_processes(
                name="train",
                entrypoint=sys.executable,
                args={k: tuple(command) for k in ranks},
                envs={k: shared | own for k, own in ranks.items()},
                logs_specs=DefaultLogsSpecs(log_dir=folder),
            )
            try:
                result = started.wait(period=0.1)
            finally:
                started.close()
        except SignalException as error:
            raise KeyboardInterrupt from error
    if result is not None and result.is_failed():
        _tell(result.failures, number * nproc, machines * nproc)


def _tell(failures: dict[int, "ProcessFailure"], first: int, count: int) -> None:
    """End as the rank did that failed first."""
    local, failure = min(failures.items(), key=lambda item: item[1].timestamp)
    if failure.exitcode > 0:
        sys.exit(failure.exitcode)
    name = signal.Signals(-failure.exitcode).name
    raise ProcessError(
        f"train: rank {first + local} of {count} was killed by {name} (out of memory?), and the "
        "others are ended; the same command goes on from the last checkpoint"
    )


def _machines() -> tuple[int, int]:
    """Return how many machines train together and which of them this is, from 0.

    Raises:
        ConfigError: unless NNODES, NODE_RANK, MASTER_ADDR and MASTER_PORT fit together.
    """
    known = os.environ
    try:
        machines, number = int(known.get("NNODES", "1")), int(known.get("NODE_RANK", "0"))
    except ValueError:
        machines, number = 0, 0
    if not 0 <= number < machines:
        raise ConfigError(
            "NNODES must say how many machines train together, NODE_RANK which of them this is, "
            "from 0"
        )
    if machines > 1 and not known.get("MASTER_PORT", "").isdecimal():
        raise ConfigError(
            "NNODES: set MASTER_ADDR to the address of the first machine in your own network, and "
            "MASTER_PORT to a free port there; docs/scale.md says who may connect"
        )
    return machines, number
