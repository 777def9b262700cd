"""Footer of a Parquet file, read by itself: how much each column says that it packs.

pyarrow ends the whole process where a footer names no place or an unknown codec of a column (its
C++ throws where Python cannot catch it), so what a stranger wrote is looked at here first. The
footer is a Thrift struct in the compact protocol; fields are told by number, as in parquet.thrift.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

_MAGIC: Final = b"PAR1"
_DEPTH: Final = 16
CODECS: Final = {0: "UNCOMPRESSED", 1: "SNAPPY", 6: "ZSTD"}
ENCODINGS: Final = {
    0: "PLAIN",
    2: "PLAIN_DICTIONARY",
    3: "RLE",
    4: "BIT_PACKED",
    8: "RLE_DICTIONARY",
}
"""Those that readers here know, by their number."""


@dataclass(frozen=True)
class Chunk:
    """What a file says of one column in one of its row groups."""

    column: str
    codec: str
    encodings: frozenset[str]
    values: int
    unpacked: int  # bytes


def read_footer(data: bytes, *, groups: int) -> Iterator[Chunk]:
    """Yield the chunks of a Parquet file of at most so many row groups, group by group.

    Raises:
        ValueError: a few words about what is wrong; one that is encrypted is damaged, too.
    """
    size = int.from_bytes(data[-8:-4], "little")
    if data[-4:] != _MAGIC or not 0 < size <= len(data) - 12:
        raise ValueError("its footer is damaged")
    try:
        found = _Compact(data[-8 - size : -8]).struct(_DEPTH)[4]
        if len(found) > groups:
            raise ValueError(f"{len(found):,} row groups")
        for group in found:
            for chunk in group[1]:
                about = chunk[3]
                yield Chunk(
                    about[3][0].decode(),
                    CODECS.get(about[4], "unknown"),
                    frozenset(ENCODINGS.get(number, "unknown") for number in about[2]),
                    int(about[5]),
                    int(about[6]),
                )
    except (LookupError, TypeError, AttributeError, UnicodeDecodeError, struct.error) as error:
        raise ValueError("its footer is damaged") from error


class _Compact:
    """Reads Thrift's compact protocol: structs as dicts by field number, lists as lists."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def struct(self, depth: int) -> dict[int, Any]:
        """Read a struct up to its end."""
        found: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._signed()
            found[number] = self._value(head & 15, depth)
        return found

    def _value(self, kind: int, depth: int, *, alone: bool = False) -> Any:
        if kind in (1, 2):  # in a list a byte of its own says which
            return self._byte() == 1 if alone else kind == 1
        if kind == 3:
            return self._byte()
        if kind in (4, 5, 6):
            return self._signed()
        if kind == 7:
            return struct.unpack("<d", self._bytes(8))[0]
        if kind == 8:
            return self._bytes(self._number())
        if depth == 0 or kind not in (9, 10, 12):  # a map: nothing in a footer is one
            raise LookupError(kind)
        if kind == 12:
            return self.struct(depth - 1)
        head = self._byte()
        count = head >> 4 if head >> 4 < 15 else self._number()
        if count > len(self._data) - self._at:
            raise LookupError(count)
        return [self._value(head & 15, depth - 1, alone=True) for _ in range(count)]

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _bytes(self, count: int) -> bytes:
        if count > len(self._data) - self._at:
            raise LookupError(count)
        self._at += count
        return self._data[self._at - count : self._at]

    def _number(self) -> int:
        """Read an unsigned varint."""
        value = shift = 0
        while shift < 64:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
        raise LookupError(shift)

    def _signed(self) -> int:
        """Read a varint in zigzag."""
        value = self._number()
        return value >> 1 ^ -(value & 1)
