"""The classes of a data set: their names, in the order of their labels.

They travel with the data: the entry of a data set (or data.classes) names them, index writes them
into the manifest, shard into index.json, train into model.json, eval into predictions.parquet.
Label i is position i; K is their number. Only the seven of the paper's data sets stand here.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Final

from pydantic_core import from_json

Classes = tuple[str, ...]
"""Names of the classes; label i is Classes[i]."""

BASIC: Final[Classes] = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")
"""The seven basic expressions, in the paper's order (and DFEW's)."""

MOST: Final = 100
"""Classes that a data set may have."""

NAME: Final = re.compile(r"[^\W_](?:[\w +-]{0,30}[\w+])?")
"""What a class may be called: letters, digits, and within - + _ and blanks. It names columns, files
and metrics, so no dot and no comma."""

ABSTAIN: Final = "abstain"
"""The decision where a model's answer is too uncertain to be one; so no class is called so."""

KEY: Final = "classes"
"""Name of the classes in the metadata of a table, where they are a JSON list."""


def check_classes(names: Iterable[object]) -> Classes:
    """Return the names as Classes.

    Raises:
        ValueError: if they are not 2 to 100 different names.
    """
    classes = tuple(names)
    for name in classes:
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise ValueError(
                f"class {str(name)[:40]!r} must be a name of 1 to 32 letters, digits, -, + and _"
            )
        if name.casefold() == ABSTAIN:
            raise ValueError(f"class {name!r} is the word for no decision; give it another name")
    texts = tuple(str(name) for name in classes)
    if not 2 <= len(texts) <= MOST:
        raise ValueError(f"{len(texts)} classes; there must be 2 to {MOST}")
    if len({name.casefold() for name in texts}) < len(texts):
        raise ValueError("two classes have one name")
    return texts


def encode(classes: Classes) -> dict[bytes, bytes]:
    """Return the metadata of an Arrow schema that says which classes a table's labels mean."""
    return {KEY.encode(): json.dumps(classes, ensure_ascii=False).encode()}


def decode(metadata: Mapping[bytes, bytes] | None) -> Classes:
    """Read the classes from the metadata of an Arrow schema.

    Raises:
        ValueError: if they are not there, or are none.
    """
    text = (metadata or {}).get(KEY.encode())
    if text is None:
        raise ValueError("it does not say which classes its labels mean")
    names = from_json(text)
    if not isinstance(names, list):
        raise ValueError("its classes are no list")
    return check_classes(names)
