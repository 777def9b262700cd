"""Is a file recognised by its content alone, and refused in words where it is none of ours?"""

import io
import re
import tempfile
from contextlib import suppress
from pathlib import Path

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import grey_ramp, write_video

from pipeline.video.container import Container, recognise
from pipeline.video.decode import read_video
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
PACKET = b"\x47\x40\x11\x10" + bytes(184)


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
        (PACKET * 30, "mpegts"),
        (PACKET * 5, "mpegts"),
        ((b"\x0e\xbf\x46\x22" + PACKET) * 30, "mpegts"),
        ((PACKET + bytes(16)) * 30, "mpegts"),
        (b"\0\0\1\xba\x44\0\4\0\4\1\0\0\3\xf8" + b"\0\0\1\xbb" + bytes(20), "mpeg"),
        (b"\0\0\1\xba\x44\0\4\0\4\1\0\0\3\xfa\xff\xff" + b"\0\0\1\xe0" + bytes(20), "mpeg"),
        (b"\0\0\1\xba\x21\0\1\0\1\x80\0\1" + b"\0\0\1\xe0" + bytes(20), "mpeg"),
        (b"FLV\1\1\0\0\0\x09\0\0\0\0\x12\0\0\x09", "flv"),
        (b"FLV\1\5\0\0\0\x09\0\0\0\0\x09\0\0\x09", "flv"),
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
        (PACKET * 4, "an MPEG transport stream that is damaged or cut off"),
        (PACKET * 8 + b"x" * 500, "an MPEG transport stream that is damaged"),
        (PACKET + b"#EXTM3U\nsecret.ts\n" * 200, "an MPEG transport stream that is damaged"),
        ((b"G" + b"#EXTM3U\nsecret.ts\n" * 10)[:188] * 4, "text"),
        (b"\x47\x40\x11\x00" * 2000, "an MPEG transport stream that is damaged"),
        (b"\0\0\1\xba\x44\0\4\0\4\1\0\0\3\xf8" + bytes(40), "a header that cannot be"),
        (b"\0\0\1\xba\x21\0\1\0\1\x80\0\0\0\0\1\xe0" + bytes(20), "a header that cannot be"),
        (b"\0\0\1\xba#EXTM3U\nsecret.ts\n", "a header that cannot be"),
        (b"\0\0\1\xba", "a header that cannot be"),
        (b"FLV\1\5\0\0\0\x0a\0\0\0\0\x09", "a header that cannot be"),
        (b"FLV\1\5\0\0\0\x09\0\0\0\0#EXTM3U\nsecret.ts\n", "a header that cannot be"),
        (b"FLV\1", "a header that cannot be"),
    ],
)
def test_what_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(DataError, match=f"^not a video of a kind that is allowed: .*{words}"):
        kind_of(tmp_path / "clip.mp4", content)


BEGINNINGS = (
    *(b"\0\0\1\xba\x44\0\4\0\4\1\0\0\3\xff", b"\0\0\1\xba\x21\0\1\0\1\x80\0\1\0\0\1\xe0"),
    *(b"FLV\1\5\0\0\0\x09\0\0\0\0\x09", b"\0\0\0\1\x40\1\x0c", b"\0\0\1\x67\x42", PACKET * 6, FTYP),
    *(b"\x1a\x45\xdf\xa3\x01\0\0\0\0\0\0\x0b\x42\x82\x88matroska", b"RIFF\x10\0\0\0AVI LIST"),
)


@given(st.sampled_from(BEGINNINGS), st.integers(0, 1200), st.binary(max_size=40))
def test_any_bytes_are_a_container_or_refused(start: bytes, cut: int, more: bytes) -> None:
    with tempfile.TemporaryFile("w+b", buffering=0) as file:
        file.write(start[:cut] + more)
        with suppress(DataError):
            recognise(file)
        assert file.tell() == 0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"GIF89a" + bytes(20), "a GIF picture"),
        (b"OggS\0\2" + bytes(20), "an Ogg file"),
        (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\0\xaa\0\x62\xce\x6c", "a Windows Media file"),
        (b"YUV4MPEG2 W64 H48 F25:1\nFRAME\n" + bytes(99), "a bare YUV video"),
        (b"\x1f\x07\x00\xbf\x78\x78\x78\x78", "a DV video"),
        (b"\x1f\x07\x00\x3f\x68\x68\x68\x68", "a DV video"),
        (bytes(20) + b"\x06\x0e\x2b\x34\x02\x05\x01\x01\x0d\x01\x02\x01", "an MXF file"),
        (b"\0\0\0\1\x67\x42", "a bare H.264 video"),
        (b"\0\0\1\x09\xf0\0\0\1\x27", "a bare H.264 video"),
        (b"\0\0\0\1\x40\1\x0c", "a bare HEVC video"),
        (b"\0\0\1\x46\1\x10", "a bare HEVC video"),
        (b"\0\0\1\xb3\x06\0\x60", "a bare MPEG-1 or MPEG-2 video"),
    ],
)
def test_a_video_that_is_not_opened_is_named_with_the_line_that_converts_it(
    tmp_path: Path, content: bytes, words: str
) -> None:
    with pytest.raises(DataError) as caught:
        kind_of(tmp_path / "clip.mp4", content)
    assert re.fullmatch(
        f"not a video of a kind that is allowed: it looks like {words}.*, not like mp4, .*; "
        "convert it: ffmpeg -i FILE -c:v libx264 -crf 12 out.mp4",
        str(caught.value),
    )


RAMP = grey_ramp(20)


def write_ramp(path: Path, codec: str, pixels: str = "yuv420p", *, form: str | None = None) -> None:
    with av.open(path, "w", format=form) as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, pixels
        stream.bit_rate = 2_000_000
        for grey in RAMP:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode())


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [
        *((suffix, "mpeg4") for suffix in ("mp4", "mov", "avi", "mkv", "3gp")),
        *(("webm", "libvpx"), ("mkv", "ffv1"), ("avi", "ffv1"), ("flv", "flv"), ("flv", "libx264")),
        *((suffix, "libx264") for suffix in ("ts", "m2ts")),
        *((suffix, "mpeg2video") for suffix in ("mpg", "vob", "ts")),
        ("mpg", "mpeg1video"),
    ],
)
def test_real_files_are_read_whatever_their_name(tmp_path: Path, suffix: str, codec: str) -> None:
    path = tmp_path / f"clip.{suffix}"
    write_ramp(path, codec)
    clip = read_video(path.rename(tmp_path / "clip%d.png"))
    assert clip.n_frames == 20
    assert abs(clip.frames - RAMP[clip.indices].astype(int)).max() <= 6


@pytest.mark.parametrize(
    ("form", "codec", "words"),
    [
        ("mxf", "mpeg2video", "an MXF file"),
        ("h264", "libx264", "a bare H.264 video"),
        ("asf", "wmv2", "a Windows Media file"),
        ("ivf", "libvpx", "an IVF file"),
        ("nut", "mpeg4", "a NUT file"),
        ("mpeg2video", "mpeg2video", "a bare MPEG-1 or MPEG-2 video"),
        ("m4v", "mpeg4", "a bare MPEG-4 video"),
        ("ogg", "libvpx", "an Ogg file"),
        ("rm", "rv10", "a RealMedia file"),
    ],
)
def test_real_files_of_other_kinds_are_named(tmp_path, form: str, codec: str, words: str) -> None:
    write_ramp(tmp_path / "clip.mp4", codec, form=form)
    with pytest.raises(DataError, match=f"it looks like {words}.*; convert it: ffmpeg"):
        read_video(tmp_path / "clip.mp4")


def test_avchd_is_read(shared: Path) -> None:
    path = shared / "cases" / "video" / "avchd" / "00001.MTS"
    with io.FileIO(path) as file:
        assert recognise(file) == Container("mpegts", False)
    clip = read_video(path)
    assert (clip.n_frames, clip.width, clip.height, clip.damage) == (40, 160, 160, "")


def test_names_that_mean_something_to_ffmpeg_are_names_only(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", grey_ramp(20)).read_bytes()
    write_video(tmp_path / "other1.mp4", grey_ramp(30))
    for name in ("concat:other1.mp4", "file:a", "http:", "img%d.jpg", "subfile,,start,0,end,9,,:a"):
        (tmp_path / name).write_bytes(video)
        for decoder in ("decord", "pyav"):
            assert read_video(tmp_path / name, decoder=decoder).n_frames == 20
