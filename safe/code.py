"""Code that a result depends on: the modules of this project that a module imports, to any depth.

In: a module's name. Out: files. Found from the text of the imports alone, so nothing is run. The
deps of dvc.yaml (`python -m cli.reference`) and the fingerprint of a training come from here: a
change to a picture retrains nothing.
"""

import ast
import hashlib
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]

IGNORED: Final = {
    "safe/code.py": "which code counts, not what it does",
    "safe/config.py": "its values are parameters of the stage, compared as such",
    "safe/errors.py": "only the words of an error",
    "safe/files.py": "how a file appears, not what is in it",
    "safe/record.py": "what is noted of the inputs, not what is made of them",
}
"""Modules that change no result, with the reason."""


def code_of(module: str) -> list[Path]:
    """Return the files that can change what a module computes, its own among them, sorted.

    Args:
        module: a dotted name below `safe`, `pipeline` or `cli`.

    Returns:
        Paths relative to the project, without the empty files of packages and those of IGNORED.
    """
    found: set[Path] = set()
    waiting = [module]
    while waiting:
        path = Path(*waiting.pop().split(".")).with_suffix(".py")
        if path in found or not (ROOT / path).is_file():
            continue
        found.add(path)
        for node in ast.walk(ast.parse((ROOT / path).read_bytes())):
            if isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                waiting += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return sorted(path for path in found if path.as_posix() not in IGNORED)


def hash_of(module: str) -> str:
    """Return the sha256 over the names and bytes of `code_of(module)`, in hex."""
    digest = hashlib.sha256()
    for path in code_of(module):
        content = (ROOT / path).read_bytes()
        digest.update(f"{path.as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()
