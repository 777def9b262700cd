"""How does a child process start without a second of imports, and end with its parent?

On Linux it is forked from multiprocessing's fork server: a process, started with the first child,
that has imported what tasks need and does nothing else, so that no lock of a thread comes along.
Where there is no such server each child is a new Python.
"""

import os
import sys
from contextlib import suppress
from functools import cache
from multiprocessing import forkserver, get_context, parent_process
from multiprocessing.context import ForkServerContext, SpawnContext
from threading import Thread
from typing import Final

_PACKAGES: Final = [
    *("av", "cv2", "onnxruntime", "pyarrow.compute", "pyarrow.parquet"),
    *("pydantic.main", "pydantic.types", "simplejpeg"),
]
"""What the server imports. Not decord, which must not see CUDA (pipeline/decode.py), and nothing of
this project: the server looks in its working folder first, where other code may lie."""


@cache
def start_method() -> ForkServerContext | SpawnContext:
    """Return how this process starts children; a server is started for it."""
    if sys.platform == "linux":
        server = get_context("forkserver")
        server.set_forkserver_preload(_PACKAGES)
        with suppress(OSError):  # no temporary folder for its socket, or one of too long a name
            forkserver.ensure_running()
            return server
    return get_context("spawn")


def end_with_parent() -> None:
    """Have this child end, whatever it does, when the process that asked for it has ended.

    By a thread: the kernel would tell of the end of the server, which outlives its children.
    """
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()
