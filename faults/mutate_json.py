"""Which damaged document is mutant `number` of this JSON?

A document goes in, the text of another comes out: valid JSON nearly always, so that it reaches the
code behind the parser, but with a key gone, a value of another type, a huge number, a path that
leaves the folder. A function of (seed, number, document) alone.
"""

import copy
import json
import random
from collections.abc import Sequence
from typing import Any, Final

_DEEP: Final = "@deep@"
_VALUES: Final = (
    *(None, True, False, 0, 1, -1, 0.5, -0.0, 2**31, 2**63 - 1, 2**63, 2**64, -(2**63), 10**30),
    *(
        float("nan"),
        float("inf"),
        1e308,
        "",
        "x",
        "0",
        "-1",
        "two\nlines",
        "nul\0",
        "\u202e",
        "x" * 5000,
    ),
    *("../x", "../../etc/passwd", "/etc/passwd", "pipe:rm", "file:///etc/passwd", ".", "a/b"),
    *("http://127.0.0.1:1/x", "\ud800", [], {}, [None], [[]], {"": None}, [0] * 1000),
    *({"file": "../x"}, _DEEP),
)
"""What a value is replaced by."""


def mutate_json(
    document: Any, *, seed: int, number: int, words: Sequence[str] = ()
) -> tuple[str, str]:
    """Return the text of mutant `number` and what was done, for example "replace+remove".

    Args:
        document: what json.loads gives; it is not changed.
        seed: of the whole round.
        number: of the mutant.
        words: texts that mean something in this document, among what values are replaced by.
    """
    rng = random.Random(f"{seed}-{number}")
    changed = {"": copy.deepcopy(document)}  # a parent for the outermost value too
    names = []
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        node, key = rng.choice(_places(changed))
        names.append(_change(node, key, rng, (*_VALUES, *words, *words)))
    text = json.dumps(changed.get(""), indent=rng.choice((None, 1)))
    depth = rng.choice((100, 1000, 100_000))
    return text.replace(f'"{_DEEP}"', "[" * depth + "]" * depth), "+".join(names)


def _places(node: Any) -> list[tuple[Any, Any]]:
    """Every (container, key or position) of a document."""
    found, open_ = [], [node]
    while open_:
        container = open_.pop()
        keys = list(container) if isinstance(container, dict) else range(len(container))
        for key in keys:
            found.append((container, key))
            if isinstance(container[key], (dict, list)):
                open_.append(container[key])
    return found


def _change(node: Any, key: Any, rng: random.Random, values: Sequence[Any]) -> str:
    """Change the value at one place, in place, and name the change."""
    value = node[key]
    if isinstance(value, int) and not isinstance(value, bool) and rng.random() < 0.5:
        node[key] = rng.choice((value + 1, value - 1, -value, value * 2, float(value), str(value)))
        return "nudge"
    if isinstance(value, str) and value and rng.random() < 0.3:
        at = rng.randrange(len(value))
        node[key] = value[:at] + rng.choice(("", "/", "0", "\n", "é")) + value[at + 1 :]
        return "letter"
    name = rng.choice(("replace", "replace", "remove", "double", "rename"))
    if name == "remove" and key != "":
        del node[key]
    elif name == "double" and isinstance(node, list):
        node.insert(key, copy.deepcopy(value))
    elif name == "rename" and isinstance(node, dict) and key != "":
        node[rng.choice(("", "x", "__class__", str(key).upper()))] = node.pop(key)
    else:
        node[key] = copy.deepcopy(rng.choice(values))
        return "replace"
    return name
