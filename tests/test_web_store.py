"""Shards behind http: read as those of any other store, or refused in one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from safe.errors import DataError
from safe.shards.cache import StoredShards
from safe.shards.folder import open_shards
from safe.shards.store import BLOCK

pytest.importorskip("aiohttp", reason="the extra `scale` is not installed")


class Plain(SimpleHTTPRequestHandler):
    """Knows no ranges, as Python's own server; where `mute`, no lengths either."""

    mute = False

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not (self.mute and path.is_file()):
            return super().do_GET()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(path.read_bytes())
        return None

    def do_HEAD(self) -> None:
        if not self.mute:
            return super().do_HEAD()
        self.send_response(200)
        self.end_headers()
        return None


@contextmanager
def web(folder: Path, *, mute: bool) -> Iterator[str]:
    handler = partial(type("Handler", (Plain,), {"mute": mute}), directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_shards_of_a_web_server_are_those_of_the_folder(shards: Path, tmp_path: Path) -> None:
    with web(shards, mute=False) as url:
        store = StoredShards(url, 2.0, tmp_path / "cache", 2**28)
        stored, here = open_shards(store), open_shards(shards)
        assert stored.clip.tolist() == here.clip.tolist()
        name = here.files[0]
        data = (shards / name).read_bytes()
        file = store / name
        assert file.size() == len(data)
        assert b"".join(file.read(at, len(data)) for at in range(0, len(data), BLOCK)) == data
        with pytest.raises(DataError, match="not found"):
            open_shards(StoredShards(f"{url}/none", 2.0, tmp_path / "cache", 2**28))


def test_a_web_server_that_tells_no_lengths_is_one_line(shards: Path, tmp_path: Path) -> None:
    with web(shards, mute=True) as url:
        store = StoredShards(url, 2.0, tmp_path / "cache", 2**28)
        with pytest.raises(DataError, match="does not say how large") as caught:
            open_shards(store)
    assert "\n" not in str(caught.value)
