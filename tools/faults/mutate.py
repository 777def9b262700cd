"""Mutants: damaged copies of bytes and of JSON, each a function of (seed, number, original) alone.

Bytes are cut, flipped, filled, shifted, spliced, or get extreme numbers where a container keeps its
sizes. A document stays valid JSON nearly always, so that it reaches the code behind the parser, but
with a key gone, a value of another type, a huge number, a path that leaves the folder.
"""

import copy
import json
import os
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

_BLOCK: Final = 512
"""Bytes of a tar header, and the unit of a tar."""

_EXTREMES: Final = (0, 1, 2, 8, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_EXTREMES_64: Final = (2**32, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1)

_MAGICS: Final = (
    b"\x00\x00\x00\x18ftypisom",
    b"RIFF\xff\xff\xff\xffAVI LIST",
    b"\x1a\x45\xdf\xa3\x01\x00\x00\x00\x00\x00\x00\x23",
    b"\x47\x40\x00\x10\x00",
    b"\x00\x00\x01\xba\x44\x00\x04\x00\x04\x01\x00\x00\x03\xf8",
    b"FLV\x01\x05\x00\x00\x00\x09\x00\x00\x00\x00",
    b"#EXTM3U\nfile:///etc/passwd\n",
    b"ffconcat version 1.0\nfile /etc/passwd\n",
    b"\xff\xd8\xff\xe0\x00\x10JFIF\x00",
    b"\x89PNG\r\n\x1a\n",
    b"\x80\x04\x95cos\nsystem\n",  # a pickle
    b"PK\x03\x04",
    b"PAR1",
    b"\x1f\x8b\x08\x00",
    b'{"a": 1}',
)

_BOXES: Final = (
    *(b"ftyp", b"moov", b"mvhd", b"trak", b"tkhd", b"edts", b"elst", b"mdia", b"mdhd", b"minf"),
    *(b"stbl", b"stsd", b"stts", b"stss", b"ctts", b"stsc", b"stsz", b"stco", b"co64", b"avc1"),
    *(b"avcC", b"mp4v", b"esds", b"mdat", b"hdlr", b"dref", b"url "),
)
_CHUNKS: Final = (b"RIFF", b"LIST", b"avih", b"strh", b"strf", b"movi", b"idx1", b"00dc", b"JUNK")
_ELEMENTS: Final = (
    *(b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67", b"\x11\x4d\x9b\x74", b"\x15\x49\xa9\x66"),
    *(b"\x16\x54\xae\x6b", b"\x1f\x43\xb6\x75", b"\x1c\x53\xbb\x6b", b"\x2a\xd7\xb1", b"\x63\xa2"),
    *(b"\x23\xe3\x83", b"\x44\x89", b"\xa3", b"\xb0", b"\xba", b"\xae", b"\xe0"),
)
_PACKS: Final = (b"\0\0\1\xba", b"\0\0\1\xbb", b"\0\0\1\xe0", b"\0\0\1\xbe")
_JPEG: Final = (b"\xff\xc0", b"\xff\xc2", b"\xff\xc4", b"\xff\xdb", b"\xff\xda", b"\xff\xe0")


class Mutant(NamedTuple):
    """A damaged copy of some bytes."""

    data: bytes
    what: str
    """The changes, in their order: "cut" or "flip+sizes"."""


class _Number(NamedTuple):
    """Where a whole number stands in a file."""

    at: int
    width: int
    order: str  # "big" or "little", of its bytes


def mutate(data: bytes, *, seed: int, number: int, other: bytes = b"") -> Mutant:
    """Make mutant `number` of some bytes: one to three changes, of which at least one tells.

    Args:
        data: the original.
        seed: of the whole round.
        number: of the mutant.
        other: a second original, to be spliced with and to take a head from; empty: itself.

    Raises:
        ValueError: if `data` is empty.
    """
    if not data:
        raise ValueError("no bytes to change")
    rng = random.Random(f"{seed}-{number}")  # from a text: the same on every platform
    result, names = data, []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        name = rng.choice((*CHANGES, "flip", "flip", "fill"))
        changed = CHANGES[name](result, rng, other or data)
        if changed != result:
            result = changed
            names.append(name)
    if result == data:
        return Mutant(_flip(data, rng, other), "flip")
    return Mutant(result, "+".join(names))


def _run(data: bytes, rng: random.Random) -> tuple[int, int]:
    """Return start and end of a run of at least a byte: short ones are as likely as long ones."""
    length = min(len(data), 1 << rng.randrange(0, max(1, len(data).bit_length())))
    start = rng.randrange(len(data) - length + 1)
    return start, start + length


def _cut(data: bytes, rng: random.Random, _: bytes) -> bytes:
    if rng.random() < 0.2:
        return data[: rng.randrange(min(64, len(data)))]
    return data[: rng.randrange(len(data))]


def _flip(data: bytes, rng: random.Random, _: bytes) -> bytes:
    changed = bytearray(data)
    head = rng.random() < 0.3
    for _bit in range(rng.choice((1, 1, 2, 8, 64, 512))):
        at = rng.randrange(min(len(data), 256) if head else len(data))
        changed[at] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _fill(data: bytes, rng: random.Random, _: bytes) -> bytes:
    start, end = _run(data, rng)
    filling = rng.choice(
        (b"\0" * (end - start), b"\xff" * (end - start), rng.randbytes(end - start))
    )
    return data[:start] + filling + data[end:]


def _delete(data: bytes, rng: random.Random, _: bytes) -> bytes:
    start, end = _run(data, rng)
    return data[:start] + data[end:] or b"\0"


def _insert(data: bytes, rng: random.Random, _: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.randbytes(1 << rng.randrange(13)) + data[at:]


def _double(data: bytes, rng: random.Random, _: bytes) -> bytes:
    start, end = _run(data, rng)
    return data[:end] + data[start:end] * rng.choice((1, 1, 3)) + data[end:]


def _swap(data: bytes, rng: random.Random, _: bytes) -> bytes:
    a, b, c = sorted(rng.randrange(len(data) + 1) for _cut_at in range(3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def _splice(data: bytes, rng: random.Random, other: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other)) :] or b"\0"


def _magic(data: bytes, rng: random.Random, other: bytes) -> bytes:
    head = rng.choice((*_MAGICS, other[:12]))
    return head + data[len(head) :] if rng.random() < 0.7 else head + data


def _sizes(data: bytes, rng: random.Random, _: bytes) -> bytes:
    """Put extreme numbers where the container keeps sizes and counts; keep a tar's sums right."""
    if data[257:262] == b"ustar":
        return tar_field(data, rng)
    places = list(_numbers(data))
    if not places:
        return data
    changed = bytearray(data)
    for place in rng.sample(places, min(len(places), rng.choice((1, 1, 2, 4)))):
        value = rng.choice(_EXTREMES + (_EXTREMES_64 if place.width == 8 else ()))
        if rng.random() < 0.3:  # near what is there: off by a little
            there = int.from_bytes(data[place.at : place.at + place.width], place.order)
            value = max(0, there + rng.choice((-1, 1, -8, 8, 1000)))
        value &= (1 << 8 * place.width) - 1
        changed[place.at : place.at + place.width] = value.to_bytes(place.width, place.order)
    return bytes(changed)


def _numbers(data: bytes) -> Iterator[_Number]:
    """Find sizes and the fields after them: mp4, RIFF, EBML, MPEG, FLV, JPEG, safetensors."""
    if data[8:9] == b"{":
        yield _Number(0, 8, "little")
    for mark in _BOXES:
        for at in _find(data, mark):
            yield from (_Number(at + by, 4, "big") for by in (-4, *range(4, 44, 4)))
    for mark in _CHUNKS:
        for at in _find(data, mark):
            yield from (_Number(at + by, 4, "little") for by in range(4, 52, 4))
    for mark in _ELEMENTS if data[:1] == b"\x1a" else ():
        for at in _find(data, mark):
            yield from (_Number(at + len(mark), width, "big") for width in (1, 2, 4, 8))
    for mark in _PACKS if data[:3] == b"\0\0\1" else ():
        for at in _find(data, mark):
            yield from (_Number(at + by, 2, "big") for by in (4, 6, 8))
    for length, at in ((188, 0), (192, 4)):
        if data[at : at + 1] == data[at + length : at + length + 1] == b"G":
            for start in range(at, min(len(data) - length, 16 * length), length):
                yield from (_Number(start + by, 2, "big") for by in (1, 4, 6, 13, 15))
    if data[:3] == b"FLV":
        yield from _tags(data)
    for mark in _JPEG if data[:2] == b"\xff\xd8" else ():
        for at in _find(data, mark):
            yield from (_Number(at + by, 2, "big") for by in (2, 5, 7))


def _tags(data: bytes, most: int = 16) -> Iterator[_Number]:
    """Find the header, the sizes and the times of the first tags of a Flash video."""
    yield _Number(5, 4, "big")
    at = 13
    while at + 15 < len(data) and most:
        yield from (_Number(at + by, 3, "big") for by in (1, 4))
        size = int.from_bytes(data[at + 1 : at + 4])
        at, most = at + 15 + size, most - 1


def _find(data: bytes, mark: bytes, most: int = 16) -> Iterator[int]:
    """Where a mark stands with room for its fields on both sides."""
    at = data.find(mark, 0)
    while at >= 0 and most:
        if 4 <= at <= len(data) - 64 or (at == 0 and mark not in _BOXES):
            yield at
            most -= 1
        at = data.find(mark, at + 1)


TAR_NAMES: Final = (
    *("../outside.jpg", "/etc/passwd", "pipe:touch x", "a/b.jpg", "clip.pkl", "clip.pyd", ""),
    *("c00.jpg", "x" * 99, "new\nline.jpg", "c00.jpg.jpg", "\udcff.cls"),
)


def tar_field(data: bytes, rng: random.Random) -> bytes:
    """Change name, size or type in one header of a tar and make its sum right again."""
    heads = [at for at in range(0, len(data), _BLOCK) if data[at + 257 : at + 262] == b"ustar"]
    at = rng.choice(heads)
    header = bytearray(data[at : at + _BLOCK])
    field = rng.choice(("name", "size", "type"))
    if field == "name":
        name = rng.choice(TAR_NAMES).encode("utf-8", "surrogateescape")
        header[:100] = name.ljust(100, b"\0")
    elif field == "size":
        octal = rng.choice((b"77777777777", b"00000000000", b"00000000001", b"-0000000001"))
        number = b"\x80" + rng.choice(_EXTREMES_64).to_bytes(10, "big") + b"\xff"  # GNU's base 256
        header[124:136] = rng.choice((octal + b"\0", number, b"00000777777\0"))
    else:
        header[156:157] = rng.choice(
            (b"1", b"2", b"3", b"5", b"x", b"g", b"L", b"K", b"S", b"\xff")
        )
        header[157:257] = b"/etc/passwd".ljust(100, b"\0")
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return data[:at] + bytes(header) + data[at + _BLOCK :]


CHANGES: Final[dict[str, Callable[[bytes, random.Random, bytes], bytes]]] = {
    "cut": _cut,
    "flip": _flip,
    "fill": _fill,
    "delete": _delete,
    "insert": _insert,
    "double": _double,
    "swap": _swap,
    "splice": _splice,
    "magic": _magic,
    "sizes": _sizes,
}
"""What can happen to some bytes; each takes them, a generator and a second original."""


def replace_file(path: Path, rng: random.Random) -> str:
    """Put something that is no sound file in a file's place, and say what."""
    path.unlink()
    what = rng.choice(
        ("missing", "empty", "folder", "pipe", "link to itself", "endless", "foreign")
    )
    if what == "empty":
        path.touch()
    elif what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    elif what != "missing":
        target = {"endless": "/dev/zero", "foreign": "/etc/passwd"}
        path.symlink_to(target.get(what, path.name))
    return what


# JSON

_DEEP: Final = "@deep@"
_VALUES: Final = (
    *(None, True, False, 0, 1, -1, 0.5, -0.0, 2**31, 2**63 - 1, 2**63, 2**64, -(2**63), 10**30),
    *(float("nan"), float("inf"), 1e308, "", "x", "0", "-1", "two\nlines", "nul\0", "\u202e"),
    "x" * 5000,
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
