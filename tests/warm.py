"""How do the many Pythons that DVC starts in a test start fast?

A start of DVC takes more than a second of a core, one of a stage with torch four. So one process
imports the packages that both need, none of this project's modules, and forks for each start: the
fork then is that `dvc` or `python -m cli`, with the caller's folder, environment and streams, and
runs the code of that folder. `bin_folder` has a `python` and a `dvc` that ask for such a fork, to
be the first of PATH. What dies with its parent, or is killed from outside, needs the real ones.

    python warm.py FD        be that process, listening there, until standard input ends
"""

import atexit
import ctypes
import functools
import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from select import select

PACKAGES = (
    *("av", "cv2", "dvc.cli.parser", "dvc.repo.experiments.queue.celery", "dvc_task.app"),
    *("dvclive", "jinja2", "matplotlib.backends.backend_agg", "matplotlib.figure", "networkx"),
    *("onnxruntime", "pyarrow.compute", "pyarrow.parquet", "pydantic.type_adapter", "pyparsing"),
    *("rich.progress", "s3fs", "safetensors.torch", "scipy.stats", "simplejpeg"),
    *("sklearn.metrics", "torch._dynamo", "torchvision.models.video", "typer", "yaml"),
)

PR_SET_PDEATHSIG = 1

CLIENT = """#!{python} -IS
import json, os, socket, sys
words, name = sys.argv[1:], os.path.basename(sys.argv[0])
if name == "python" and words[:2] != ["-m", "cli"]:
    os.execv({python!r}, [{python!r}, *words])
with socket.socket(socket.AF_UNIX) as line:
    line.connect({socket!r})
    request = json.dumps([name, words, os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(line, [len(request).to_bytes(4, "big")], [0, 1, 2])
    line.sendall(request)
    code = line.recv(1)
sys.exit(code[0] if code else 70)
"""


@functools.cache
def bin_folder() -> Path:
    """Start the process that forks, once; return the folder of what asks it to."""
    folder = tempfile.TemporaryDirectory(prefix="warm-")
    at = f"{folder.name}/socket"
    for name in ("python", "dvc"):
        client = Path(folder.name, name)
        client.write_text(CLIENT.format(python=sys.executable, socket=at))
        client.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(at)
        listener.listen(64)
        server = subprocess.Popen(
            [sys.executable, __file__, str(listener.fileno())],
            pass_fds=[listener.fileno()],
            stdin=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},  # a fork has no threads but its own
        )
    atexit.register(folder.cleanup)
    atexit.register(server.communicate)  # before that
    return Path(folder.name)


def serve(listener: socket.socket) -> None:
    """Import, then fork for every request; until standard input ends."""
    for name in PACKAGES:
        __import__(name)
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries them
    while True:
        ready, _, _ = select([listener, sys.stdin], [], [])
        if sys.stdin in ready:
            os._exit(0)  # without the complaints of what is imported
        line, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            be(line)
        line.close()


def be(line: socket.socket) -> None:
    """Be the program that was asked for; say its exit code in the end."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if sys.platform == "linux":  # so that no test leaves it behind
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    length, streams, _, _ = socket.recv_fds(line, 4, 3)
    with line.makefile("rb") as file:
        name, words, folder, environment = json.loads(file.read(int.from_bytes(length, "big")))
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    code: object = 0
    try:
        if name == "dvc":
            from dvc.cli import main

            sys.argv = [name, *words]
            code = main(words)
        else:
            sys.argv = words[1:]  # the module's name becomes its path
            sys.path[:1] = [folder, *filter(None, environment.get("PYTHONPATH", "").split(":"))]
            runpy.run_module("cli", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code or 0
    except BaseException:  # noqa: BLE001 - as Python itself would
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    line.sendall(bytes([code if isinstance(code, int) else 1]))
    os._exit(0)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
