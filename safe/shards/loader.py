"""The loader: the clips of a plan become batches.

Worker processes read each clip's JPEG by its offset and decode it into buffers that are made once
and shared: fresh shared memory for every batch costs half as much as the decoding itself (page
faults). Batch b is read by worker b mod N, so the plan's order holds for any number of workers.
Augmentation and normalisation happen on the device.
"""

import math
import mmap
import multiprocessing
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain, islice
from multiprocessing.connection import Connection
from typing import Final, TypedDict

import numpy as np
import torch
from torch import Tensor

from safe.errors import MachineError, SafeError, explain, of_machine
from safe.files import die_with_parent
from safe.shards.clips import ClipReader, Faces, Rows, open_tars
from safe.shards.folder import ShardFolder

_AHEAD: Final = 3
"""Batches that each worker may be ahead of the consumer. With 2, where three processes share two
cores, a worker waits now and then for one that waits for a core: 5 % fewer clips a second."""

_DEADLINE: Final = 900
"""Seconds that a batch may take: with shards in a store as long as its patience, and more."""

_FAREWELL: Final = 10.0
"""Seconds from a kill to the end of a process; one that waits for a disk may take no signal."""


class Batch(TypedDict):
    """One batch as it leaves the loader; its faces are overwritten once the next is asked for."""

    faces: Tensor  # uint8 [B, T, S, S, 3], RGB, 0..255
    label: Tensor  # int64 [B], on the CPU
    row: Tensor  # int64 [B], of the shard folder's table, on the CPU


def load_batches(
    folder: ShardFolder,
    plan: Iterable[Rows],
    *,
    workers: int,
    device: torch.device = torch.device("cpu"),  # noqa: B008
) -> Iterator[Batch]:
    """Give the plan's batches in the plan's order, for any number of worker processes.

    On a GPU the next batch is copied, from pinned memory and on a stream of its own, while the
    current one is used. Only the current batch is valid: its buffer is then filled again.

    Args:
        folder: the shards.
        plan: row arrays int64 [B]; none is longer than the first.
        workers: processes; with 0 this one reads.
        device: where the faces are to be.

    Raises:
        DataError: one line, also when a worker met it.
        MachineError: one line, if the disk fails, or a worker was killed or does not answer.
    """
    batches = iter(plan)
    first = next(batches, None)
    if first is None:
        return
    rest = chain([first], batches)
    size = folder.face_size
    shape = (max(1, workers * _AHEAD), len(first), folder.frames, size, size, 3)
    buffers = np.frombuffer(mmap.mmap(-1, math.prod(shape)), np.uint8).reshape(shape)
    read = (
        _read_here(folder, rest, buffers)
        if not workers
        else _read_there(folder, rest, buffers, workers)
    )
    found = (_batch(folder, rows, faces) for rows, faces in read)
    there = found if device.type == "cpu" else _copy_ahead(found, buffers, device)
    yield from open_tars(folder).prefetch((folder.shard[rows] for rows in rest), there)


def started(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Wait for the first batch, then give the same batches; the workers read on meanwhile."""
    return chain(list(islice(batches, 1)), batches)


def _batch(folder: ShardFolder, rows: Rows, faces: Faces) -> Batch:
    return Batch(
        faces=torch.from_numpy(faces),
        label=torch.from_numpy(folder.label[rows]),
        row=torch.from_numpy(np.asarray(rows)),
    )


def _read_here(
    folder: ShardFolder, plan: Iterator[Rows], buffers: Faces
) -> Iterator[tuple[Rows, Faces]]:
    reader = ClipReader(folder)
    try:
        for rows in plan:
            faces = buffers[0, : len(rows)]
            reader.read(rows, faces)
            yield rows, faces
    finally:
        reader.close()


def _read_there(
    folder: ShardFolder, plan: Iterator[Rows], buffers: Faces, workers: int
) -> Iterator[tuple[Rows, Faces]]:
    """Batch b is worker b mod N's; its slot is free again once the consumer asks for b + 1."""
    context = multiprocessing.get_context("fork")  # the children share the buffers by inheritance
    pipes, processes = [], []
    asked: deque[Rows] = deque()
    number = 0  # of the batch that the consumer has
    try:
        for _ in range(workers):
            ours, theirs = context.Pipe()
            pipes.append(ours)
            process = context.Process(target=_work, args=(folder, buffers, theirs), daemon=True)
            process.start()
            processes.append(process)
            theirs.close()  # so that a worker's death is seen as the end of its pipe
        for ahead, rows in enumerate(islice(plan, len(buffers))):
            with suppress(ConnectionError):  # its end is told where its batch is waited for
                pipes[ahead % workers].send((ahead % len(buffers), rows))
            asked.append(rows)
        while asked:
            rows, pipe, slot = asked.popleft(), pipes[number % workers], number % len(buffers)
            _receive(pipe)
            yield rows, buffers[slot, : len(rows)]
            following = next(plan, None)
            if following is not None:
                with suppress(ConnectionError):
                    pipe.send((slot, following))
                asked.append(following)
            number += 1
    finally:
        for pipe in pipes:
            pipe.close()
        for process in processes:
            process.kill()  # SIGTERM would wait for one that is stopped
            process.join(_FAREWELL)


def _receive(pipe: Connection) -> None:
    """Wait until a worker has filled its slot. Raises what it met."""
    left = _DEADLINE
    while not pipe.poll(1):  # a second at a time: one in which all stood still counts as one
        left -= 1
        if left <= 0:
            raise MachineError(
                f"a process of the loader does not answer for {_DEADLINE} s; is the disk there?"
            )
    try:
        problem = pipe.recv()
    except (EOFError, ConnectionResetError):
        problem = MachineError(
            "a process of the loader was killed (out of memory?); see runtime.workers"
        )
    if problem is not None:
        raise problem


def _work(folder: ShardFolder, buffers: Faces, pipe: Connection) -> None:
    """Fill the slots that come through the pipe; a worker's whole life."""
    die_with_parent()
    reader = ClipReader(folder)
    while True:
        try:
            slot, rows = pipe.recv()
            reader.read(rows, buffers[slot, : len(rows)])
            pipe.send(None)
        except SafeError as error:
            pipe.send(error)
        except (EOFError, BrokenPipeError, KeyboardInterrupt):
            return
        except Exception as error:  # noqa: BLE001  it is one line there, whatever it is
            text = explain(error) if of_machine(error) else f"{type(error).__name__}: {error}"
            pipe.send(MachineError(f"a process of the loader failed: {text}"))


def _copy_ahead(batches: Iterator[Batch], buffers: Faces, device: torch.device) -> Iterator[Batch]:
    """Copy each batch to a GPU while the one before it is used."""
    batches = started(batches)  # its workers are forked before CUDA is touched here
    runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    address = buffers.ctypes.data
    runtime.cudaHostRegister(address, buffers.nbytes, 0)  # pins pages that exist already
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    ready: tuple[Batch, torch.cuda.Event] | None = None
    try:
        for batch in batches:
            with torch.cuda.stream(stream):
                faces = batch["faces"].to(device, non_blocking=True)
            done = stream.record_event()
            if ready is not None:
                yield _take(ready, device)
            done.synchronize()  # before the slot is filled again; the GPU works on meanwhile
            ready = (Batch(faces=faces, label=batch["label"], row=batch["row"]), done)
        if ready is not None:
            yield _take(ready, device)
    finally:
        runtime.cudaHostUnregister(address)


def _take(ready: tuple[Batch, torch.cuda.Event], device: torch.device) -> Batch:
    """Make the current stream wait for a copy, and keep its memory until that stream is done."""
    batch, done = ready
    current = torch.cuda.current_stream(device)
    current.wait_event(done)
    batch["faces"].record_stream(current)
    return batch
