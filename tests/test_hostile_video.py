"""Does a video made to harm end as one row with its reason, and open nothing?"""

import http.server
import os
import struct
import threading
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest
from support import ROOT, grey_ramp, write_manifest, write_video
from tasks import tell_damage

from pipeline.face.table import ClipFaces, read_faces
from pipeline.faces import find_faces
from pipeline.pool.children import Failure
from pipeline.pool.pool import Pool
from pipeline.shard import Clip, encode_clip
from pipeline.video.decode import Decoder, load_decoder, read_video
from pipeline.video.listing import MAX_FRAMES
from safe.errors import DataError
from safe.params import load_config

SETTINGS = load_config(ROOT / "params.yaml")
both_decoders = pytest.mark.parametrize("decoder", ["decord", "pyav"])


class Bait:
    """A local secret and a loopback server, and whether anybody came for them.

    The secret is a FIFO with a writer behind it: whoever opens it for reading lets the writer's
    own open go through, which is then seen.
    """

    def __init__(self, folder: Path):
        self.secret = folder / "secret.ts"
        self.came: list[str] = []
        os.mkfifo(self.secret)
        came = self.came

        class Handler(http.server.BaseHTTPRequestHandler):
            def handle(self) -> None:
                came.append("server")

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/secret.ts"
        self._threads = [
            threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True),
            threading.Thread(target=self._write, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def _write(self) -> None:
        with self.secret.open("wb"):  # waits until somebody opens it for reading
            self.came.append("secret")

    def visited(self) -> set[str]:
        """End the watch; return who was visited."""
        self._threads[1].join(0.2)
        seen = set(self.came)
        os.close(os.open(self.secret, os.O_RDONLY | os.O_NONBLOCK))
        self.server.shutdown()
        self.server.server_close()
        return seen


@pytest.fixture
def bait(tmp_path: Path) -> Bait:
    return Bait(tmp_path)


HEADS = {
    "flv": b"FLV\1\5\0\0\0\x09\0\0\0\0\x09",
    "mpeg2": b"\0\0\1\xba\x44\0\4\0\4\1\0\0\3\xf8\0\0\1\xbb" + bytes(20),
    "mpeg1": b"\0\0\1\xba\x21\0\1\0\1\x80\0\1\0\0\1\xe0" + bytes(20),
}
"""What looks like a container for long enough to be opened."""


def playlists(bait: Bait) -> dict[str, bytes]:
    """Return files that are nothing but directions to the two baits."""
    hls = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n"
    ftyp = b"\0\0\0\x10ftypisom\0\0\0\0"
    both = (bait.secret.as_uri().replace("file://", "file:"), bait.url)
    found = {}
    for number, place in enumerate(both):
        found[f"hls{number}"] = hls.format(place).encode()
        found[f"ftyp{number}"] = ftyp + hls.format(place).encode()
        found[f"concat{number}"] = f"ffconcat version 1.0\nfile '{place}'\n".encode()
        for kind, head in HEADS.items():
            found[f"{kind}{number}"] = head + hls.format(place).encode()
        packet = b"G@\x11\x10" + hls.format(place).encode()
        found[f"ts{number}"] = packet.ljust(188, b"\n") * 30
        found[f"avchd{number}"] = (b"#EXT" + packet.ljust(188, b"\n")) * 30
        profile = "profiles='urn:mpeg:dash:profile:isoff-live:2011'"
        found[f"dash{number}"] = f"<MPD {profile}><BaseURL>{place}</BaseURL></MPD>".encode()
    return found


def test_the_bait_works(bait: Bait, tmp_path: Path) -> None:
    """A reader without our precautions does open them: else the tests below show nothing."""
    for name, content in playlists(bait).items():
        if name.startswith("concat"):
            (tmp_path / name).write_bytes(content)
            with pytest.raises((av.error.FFmpegError, OSError)):
                av.open(
                    str(tmp_path / name),
                    format="concat",
                    options={"safe": "0", "protocol_whitelist": "file,http,tcp"},
                    timeout=3,
                ).close()
    assert bait.visited() == {"secret", "server"}


def test_playlists_in_disguise_open_nothing_and_are_rows(bait: Bait, tmp_path: Path) -> None:
    root = tmp_path / "root"
    write_video(root / "good.mp4", grey_ramp(20))
    clips = [("good", "good.mp4")]
    for name, content in playlists(bait).items():
        (root / f"{name}.mp4").write_bytes(content)
        clips.append((name, f"{name}.mp4"))
    manifest = write_manifest(tmp_path / "manifest.parquet", sorted(clips))
    out = tmp_path / "faces.parquet"
    counts = find_faces(
        manifest, root, out, settings=SETTINGS.faces, pool=Pool(workers=1, deadline=30, memory=4.0)
    )
    assert counts == {"ok": 0, "partial": 0, "missing": 1, "error": 18}
    for row in read_faces(out).to_pylist():
        expected = "no face" if row["clip"] == "good" else "not a video"
        assert row["reason"].startswith(expected)
    assert not bait.visited()


def refer(path: Path, secret: Path) -> None:
    """Make the one dref of an mp4 say that the samples are in `secret`, by a QuickTime alias."""
    content = path.read_bytes()
    old = b"\0\0\0\x0curl \0\0\0\x01"
    assert content.count(old) == 1
    name = os.fsencode(secret)
    record = struct.pack(">HH", 2, len(name)) + name + bytes(len(name) % 2)
    entry = b"alis\0\0\0\0" + bytes(150) + record + b"\xff\xff\0\0"
    new = (4 + len(entry)).to_bytes(4) + entry
    changed, where = bytearray(content.replace(old, new)), content.index(old)
    for kind in (b"dref", b"dinf", b"minf", b"mdia", b"trak", b"moov"):  # all that hold the entry
        place = changed.rindex(kind, 0, where) - 4
        size = int.from_bytes(changed[place : place + 4]) + len(new) - len(old)
        changed[place : place + 4] = size.to_bytes(4)
    path.write_bytes(changed)


@both_decoders
def test_a_mov_whose_samples_are_in_another_file(
    tmp_path: Path, bait: Bait, decoder: Decoder
) -> None:
    path = write_video(tmp_path / "a.mp4", grey_ramp(20))
    refer(path, bait.secret)
    with pytest.raises(DataError, match="no frame could be decoded"):
        read_video(path, decoder=decoder)
    assert not bait.visited()


def test_that_mov_does_lead_to_the_secret(tmp_path: Path, bait: Bait) -> None:
    path = write_video(tmp_path / "a.mp4", grey_ramp(20))
    refer(path, bait.secret)
    options = {"enable_drefs": "1", "use_absolute_path": "1"}
    av.open(str(path), container_options=options).close()
    assert bait.visited() == {"secret"}


def test_a_name_that_is_a_fifo_is_no_file(tmp_path: Path, bait: Bait) -> None:
    with pytest.raises(DataError, match="file missing"):
        read_video(bait.secret)
    assert not bait.visited()


@both_decoders
def test_a_codec_that_is_not_allowed_is_named(tmp_path: Path, decoder: Decoder) -> None:
    path = tmp_path / "a.avi"
    with av.open(path, "w") as container:
        stream = container.add_stream("huffyuv", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv422p"
        for grey in grey_ramp(20):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode())
    with pytest.raises(DataError, match="codec huffyuv is not allowed; allowed are h264, hevc"):
        read_video(path, decoder=decoder)


@both_decoders
def test_too_many_frames_are_refused_by_the_list_not_the_claim(
    tmp_path: Path, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_video(tmp_path / "a.mp4", grey_ramp(40))
    monkeypatch.setattr("pipeline.video.listing.MAX_FRAMES", 39)
    with pytest.raises(DataError, match="more than 39 frames: too long"):
        read_video(path, decoder=decoder)
    monkeypatch.setattr("pipeline.video.listing.MAX_FRAMES", 40)
    assert read_video(path, decoder=decoder).n_frames == 40


@both_decoders
def test_billions_of_frames_claimed_cost_no_memory(tmp_path: Path, decoder: Decoder) -> None:
    """A table of samples that says 2^32 - 2, all of one size, needs no bytes in the file."""
    path = write_video(tmp_path / "a.mp4", grey_ramp(40))
    content = bytearray(path.read_bytes())
    place = content.index(b"stsz") + 8
    content[place : place + 8] = (1).to_bytes(4) + (2**32 - 2).to_bytes(4)
    path.write_bytes(content)
    pool = Pool(deadline=20, memory=0.25)
    rows = pool.run(partial(tell_damage, decoder=decoder), [path], setup=load_decoder)
    [told] = rows
    assert isinstance(told, Failure | str)
    assert told


def test_frames_over_the_memory_are_one_row(tmp_path: Path) -> None:
    """A clip that takes more than it may is on record, and the clip after it is fine."""
    root = tmp_path / "root"
    write_video(root / "large.mp4", np.zeros((16, 1088, 1920, 3), np.uint8))
    write_video(root / "small.mp4", grey_ramp(20))
    manifest = write_manifest(
        tmp_path / "manifest.parquet", [("large", "large.mp4"), ("small", "small.mp4")]
    )
    out = tmp_path / "faces.parquet"
    settings = SETTINGS.faces
    find_faces(
        manifest, root, out, settings=settings, pool=Pool(workers=1, deadline=60, memory=0.08)
    )
    large, small = read_faces(out).to_pylist()
    assert (large["status"], large["reason"]) == ("error", "took more memory than 0.08 GiB")
    assert (small["status"], small["reason"]) == ("missing", "no face in any frame")


def test_shard_says_why_a_clip_failed(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"#EXTM3U\nhttp://127.0.0.1/a.ts\n")
    face = ClipFaces(status="ok", reason="")
    clip = Clip("a", "a.mp4", 0, "fold1", "video", face)
    told = encode_clip(clip, root=tmp_path, settings=SETTINGS.shard)
    assert isinstance(told, Failure)
    assert "a playlist" in told.reason


def test_the_limit_of_frames_leaves_room_for_real_clips() -> None:
    assert MAX_FRAMES >= 30 * 60 * 50
