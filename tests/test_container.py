"""Is a file recognised by its content alone, and refused in words where it is none of ours?"""

import io
from pathlib import Path

import av
import pytest
from conftest import grey_ramp, write_video

from pipeline.container import recognise
from pipeline.decode import read_video
from safe.errors import DataError


def kind_of(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with io.FileIO(path) as file:
        kind = recognise(file)
        assert file.tell() == 0
    return kind.demuxer + (" certain" if kind.certain else "")


def box(kind: bytes, content: bytes = b"", *, size: int | None = None) -> bytes:
    return (8 + len(content) if size is None else size).to_bytes(4) + kind + content


FTYP = box(b"ftyp", b"isom\0\0\2\0isommp41")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (FTYP, "mov certain"),
        (box(b"ftyp", b"qt  \0\0\0\0"), "mov certain"),
        (box(b"moov", bytes(100)), "mov"),
        (box(b"mdat", bytes(9), size=0), "mov"),
        (box(b"mdat", bytes(9), size=1), "mov"),
        (box(b"mdat", bytes(9), size=2**31), "mov"),  # cut off
        (box(b"wide") + box(b"mdat", bytes(9)), "mov"),
        (b"RIFF\x10\0\0\0AVI LIST" + bytes(9), "avi certain"),
        (b"\x1a\x45\xdf\xa3\x87\x42\x82\x84webm", "matroska certain"),
        (b"\x1a\x45\xdf\xa3\x01\0\0\0\0\0\0\x0b\x42\x82\x88matroska", "matroska certain"),
    ],
)
def test_what_is_allowed(tmp_path: Path, content: bytes, kind: str) -> None:
    assert kind_of(tmp_path / "clip.txt", content) == kind


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"#EXTM3U\nsecret.ts\n", "a playlist"),
        (b"\n #EXTM3U\nsecret.ts\n", "a playlist"),
        (b"ffconcat version 1.0\nfile secret.mp4\n", "a list of files"),
        (b"<?xml version='1.0'?><MPD>", "XML"),
        (b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\n", "text"),
        (b"\xff\xd8\xff\xe0" + bytes(50), "a JPEG"),
        (b"RIFF\x10\0\0\0WAVEfmt ", "no AVI"),
        (b"\x1a\x45\xdf\xa3\x87\x42\x82\x84song", "neither Matroska nor WebM"),
        (b"\x1a\x45\xdf\xa3\xff\x42\x82\x84webm", "neither Matroska nor WebM"),  # header cut off
        (b"\x1a\x45\xdf\xa3\0", "neither Matroska nor WebM"),
        (box(b"ftyp", b"avif\0\0\0\0"), "a picture"),
        (box(b"ftyp", b"isom", size=0x3C4D5044), "XML"),  # this size spells <MPD
        (box(b"ftyp", b"isom", size=8), "a picture, or an mp4"),
        (box(b"free", size=2**31), "nothing known"),
        (bytes(100), "zeros"),
        (b"\0", "zeros"),
        (bytes(range(128, 228)), "nothing known"),
    ],
)
def test_what_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(DataError, match=f"^not a video of a kind that is allowed: .*{words}"):
        kind_of(tmp_path / "clip.mp4", content)


@pytest.mark.parametrize("suffix", ["mp4", "mov", "avi", "mkv", "webm", "3gp"])
def test_real_files_are_read_whatever_their_name(tmp_path: Path, suffix: str) -> None:
    codec, pixels = {"webm": ("libvpx", "yuv420p")}.get(suffix, ("mpeg4", "yuv420p"))
    path = tmp_path / f"clip.{suffix}"
    ramp = grey_ramp(20)
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, pixels
        stream.bit_rate = 2_000_000
        for grey in ramp:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode())
    clip = read_video(path.rename(tmp_path / "clip%d.png"))
    assert clip.n_frames == 20
    assert abs(clip.frames - ramp[clip.indices].astype(int)).max() <= 6


def test_names_that_mean_something_to_ffmpeg_are_names_only(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", grey_ramp(20)).read_bytes()
    write_video(tmp_path / "other1.mp4", grey_ramp(30))
    for name in ("concat:other1.mp4", "file:a", "http:", "img%d.jpg", "subfile,,start,0,end,9,,:a"):
        (tmp_path / name).write_bytes(video)
        for decoder in ("decord", "pyav"):
            assert read_video(tmp_path / name, decoder=decoder).n_frames == 20
