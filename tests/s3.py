"""An S3 server on loopback, and what may lie between it and a test."""

import contextlib
import socket
import threading

import pytest

from safe.shards.store import _filesystem

SECRET = "hush-this-is-the-secret-key"
KEY = "AKIAHUSHHUSHHUSHHUSH"


class Proxy:
    """A TCP proxy that can refuse: what lies between a machine and its store."""

    def __init__(self, target: int) -> None:
        self.target, self.open, self.passed, self.fuse = target, True, 0, float("inf")
        self.live: set[socket.socket] = set()
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        self.accepting = threading.Thread(target=self._accept, daemon=True)
        self.accepting.start()

    def _accept(self) -> None:
        while True:
            try:
                ours, _ = self.server.accept()
            except OSError:  # closed
                return
            with contextlib.suppress(OSError):
                if not self.open:
                    ours.close()
                    continue
                theirs = socket.create_connection(("127.0.0.1", self.target))
                self.live |= {ours, theirs}
                for pair in ((ours, theirs), (theirs, ours)):
                    threading.Thread(target=self._pass, args=pair, daemon=True).start()

    def _pass(self, a: socket.socket, b: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := a.recv(2**16):
                self.passed += len(data)
                if self.passed > self.fuse:
                    self.fuse = float("inf")
                    self.stop()
                    threading.Timer(1, setattr, (self, "open", True)).start()
                b.sendall(data)
        for end in (a, b):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def stop(self) -> None:
        """Refuse, and cut what is open."""
        self.open = False
        live, self.live = self.live, set()  # at once: another thread may add to it
        for end in live:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Stop for good."""
        self.stop()
        self.server.shutdown(socket.SHUT_RDWR)  # the thread that accepts is told by this alone
        self.accepting.join(10)
        assert not self.accepting.is_alive(), "it would take a core from the tests that follow"
        self.server.close()


def go_to(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let s3:// mean the server at a port."""
    for name, value in environment(port).items():
        monkeypatch.setenv(name, value)
    _filesystem.cache_clear()  # it knows the address of the test before


def environment(port: int) -> dict[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
