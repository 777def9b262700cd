"""Is what came through a child's pipe one whole answer?

A child may die or hang in the middle of an answer, and native code gone wrong may write anything
into any file it has open. So an answer has a header with its length and its checksum, the parent
takes what has come without ever waiting for more, and a length is not believed until the bytes are
there.
"""

import os
import struct
import zlib
from multiprocessing.connection import Connection
from typing import Final

_HEADER: Final = struct.Struct("!4sIQ")  # mark, CRC-32 and length of what follows
_MARK: Final = b"SAFE"

MAX_BYTES: Final = 2**28
"""Longest answer. That of a clip is its boxes and a strip, below 50 MB at the largest settings."""


class GarbledError(Exception):
    """What came is no answer."""


def send(pipe: Connection, payload: bytes) -> None:
    """Send one answer; returns when all of it is in the pipe."""
    view = memoryview(_HEADER.pack(_MARK, zlib.crc32(payload), len(payload)) + payload)
    while view:
        view = view[os.write(pipe.fileno(), view) :]


class Inbox:
    """What has come from one child and is not a whole answer yet."""

    def __init__(self, pipe: Connection):
        self._pipe = pipe
        self._got = bytearray()

    def read(self) -> bytes | None:
        """Take what waits in the pipe; return the answer if it is whole now, else None.

        To be called when the pipe is ready, since it waits where it is not.

        Raises:
            EOFError: if the child has closed the pipe, by its end as a rule.
            GarbledError: if what came is no answer, or more than one.
        """
        try:
            part = os.read(self._pipe.fileno(), 2**20)
        except ConnectionResetError:
            part = b""
        if not part:
            raise EOFError
        self._got += part
        if not self._got.startswith(_MARK[: len(self._got)]):
            raise GarbledError
        if len(self._got) < _HEADER.size:
            return None
        _, checksum, length = _HEADER.unpack_from(self._got)
        missing = _HEADER.size + length - len(self._got)
        if length > MAX_BYTES or missing < 0:
            raise GarbledError
        if missing:
            return None
        payload = bytes(self._got[_HEADER.size :])
        self._got.clear()
        if zlib.crc32(payload) != checksum:
            raise GarbledError
        return payload
