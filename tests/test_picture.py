"""Pictures as a person sees them, against the ffmpeg program, hand-made values and formulas."""

import math
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import cv2
import imageio_ffmpeg
import numpy as np
import pytest
from numpy.typing import NDArray
from support import write_video

from pipeline.stretch import cut_stretch, read_windows, survey
from pipeline.video.decode import FEW, Decoder, read_video
from pipeline.video.picture import HDR, INTERLACED, TURNED, fit
from safe.errors import DataError

both_decoders = pytest.mark.parametrize("decoder", ["decord", "pyav"])


def ffmpeg(*words: object, feed: bytes | None = None) -> bytes:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *map(str, words)]
    return subprocess.run(command, input=feed, capture_output=True, check=True).stdout


def encode(path: Path, frames: NDArray[np.uint8], *options: object, fps: int = 25) -> Path:
    """Encode RGB frames uint8 [N, H, W, 3] with the ffmpeg program."""
    height, width = frames.shape[1:3]
    source = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", fps)
    ffmpeg(*source, "-i", "-", *options, path, feed=frames.tobytes())
    return path


def disc(count: int, *, height: int, width: int, squeeze: float) -> NDArray[np.uint8]:
    """Return a white disc, round where a pixel is `squeeze` times as wide as it is high."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    axes = (round(30 / squeeze), 30)
    for frame in frames:
        cv2.ellipse(frame, (width // 2, height // 2), axes, 0, 0, 360, (255, 255, 255), -1)
    return frames


def extent(frame: NDArray[np.uint8]) -> tuple[int, int]:
    """Return width and height of what is bright."""
    rows, columns = np.nonzero(frame[..., 1] > 128)
    return int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1


# The shape of pixels


@both_decoders
@pytest.mark.parametrize(
    ("sar", "name"),
    [("64/45", "a.mp4"), ("16/15", "a.mkv"), ("4/3", "a.avi"), ("8/9", "a.mov"), ("3/4", "a.mp4")],
)
def test_a_disc_is_round_whatever_the_shape_of_its_pixels(
    tmp_path: Path, decoder: Decoder, sar: str, name: str
) -> None:
    shape = Fraction(sar)
    frames = disc(20, height=96, width=180, squeeze=float(shape))
    encode(tmp_path / name, frames, "-vf", f"setsar={sar}", "-c:v", "libx264", "-crf", 12)
    clip = read_video(tmp_path / name, decoder=decoder)
    assert clip.frames.shape == (16, 96, round(180 * shape), 3)
    width, height = extent(clip.frames[7])
    assert abs(width - height) <= 2
    film = survey(tmp_path / name)
    assert film.size == (clip.width, clip.height)
    (window,) = read_windows(cut_stretch(tmp_path / name, film, [range(2, 18)]))
    assert window is not None
    assert extent(window.frames[3]) == (width, height)


@pytest.mark.parametrize("sar", ["1/1", "400/399", "100/1"])  # square, nearly, nonsense
def test_pixels_that_are_square_or_cannot_be_are_left_alone(tmp_path: Path, sar: str) -> None:
    frames = disc(20, height=96, width=180, squeeze=1)
    path = encode(tmp_path / "a.mp4", frames, "-vf", f"setsar={sar}", "-c:v", "libx264")
    assert read_video(path).frames.shape == (16, 96, 180, 3)


# Turns and mirrors


@both_decoders
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_all_turns_and_mirrors_are_those_of_the_ffmpeg_program(
    tmp_path: Path, decoder: Decoder, degrees: int, mirrored: bool, flipped: bool
) -> None:
    path = tmp_path / "a.mp4"
    picture = np.random.default_rng(5).integers(0, 255, (6, 9, 3), np.uint8).repeat(16, 0)
    picture = picture.repeat(16, 1)
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 96, 144, "yuv420p"
        stream.set_display_rotation(degrees, hflip=mirrored, vflip=flipped)
        for _ in range(20):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    clip = read_video(path, decoder=decoder)
    raw = ffmpeg("-i", path, "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    shown = np.frombuffer(raw, np.uint8).reshape(20, *clip.frames.shape[1:])
    off = np.abs(clip.frames.astype(int) - shown[clip.indices])
    assert off.mean() < 1.5  # ffmpeg turns before it converts: chroma is a pixel off


def test_a_selfie_of_the_shared_cases_stands_upright(shared: Path) -> None:
    path = shared / "cases/video/mirrored-matrix/selfie.mp4"
    clip = read_video(path)
    raw = ffmpeg("-i", path, "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    shown = np.frombuffer(raw, np.uint8).reshape(-1, *clip.frames.shape[1:])
    assert np.abs(clip.frames.astype(int) - shown[clip.indices]).mean() < 1.5


# Frames of more than one size


def write_sizes(path: Path, pictures: list[NDArray[np.uint8]]) -> Path:
    """Write pictures of any sizes as one stream of JPEGs, the container naming the first's."""
    height, width = pictures[0].shape[:2]
    with av.open(path, "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuvj420p"
        for place, picture in enumerate(pictures):
            _, jpeg = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
            packet = av.Packet(jpeg.tobytes())
            packet.stream, packet.time_base = stream, Fraction(1, 25)
            packet.pts = packet.dts = place
            packet.is_keyframe = True
            container.mux(packet)
    return path


@both_decoders
@pytest.mark.parametrize("turn_at", [3, 10, 17])
def test_a_picture_that_is_turned_half_way_keeps_its_proportions(
    tmp_path: Path, decoder: Decoder, turn_at: int
) -> None:
    high = disc(1, height=160, width=96, squeeze=1)[0]
    wide = disc(1, height=96, width=160, squeeze=1)[0]
    path = write_sizes(tmp_path / "a.mkv", [high] * turn_at + [wide] * (20 - turn_at))
    clip = read_video(path, decoder=decoder)
    assert clip.frames.shape == (16, 160, 160, 3)
    assert clip.notes == (TURNED,)
    assert clip.damage == ""
    assert all(abs(side - 61) <= 1 for frame in clip.frames for side in extent(frame))


def test_a_phone_that_is_turned_in_a_call(shared: Path) -> None:
    path = shared / "cases/video/turned-midway/call.webm"
    film = survey(path)
    assert film.size == (320, 320)
    clip = read_video(path)
    assert clip.frames.shape == (16, 320, 320, 3)
    assert TURNED in clip.notes


def test_fit_keeps_proportions_and_the_middle() -> None:
    white = np.full((20, 10, 3), 255, np.uint8)
    fitted = fit(white, (40, 40))
    assert extent(fitted) == (20, 40)
    assert fitted[:, 10:30].min() == 255
    assert fit(white, (10, 20)) is white


# Interlaced


def weave(count: int) -> NDArray[np.uint8]:
    """Return frames each of whose fields shows a bar at another moment: combed when seen whole."""
    fields = np.full((2 * count, 96, 160, 3), 30, np.uint8)
    for moment, field in enumerate(fields):
        field[:, 3 * moment : 3 * moment + 20] = 220
    frames = fields[::2].copy()
    frames[:, 1::2] = fields[1::2, 1::2]
    return frames


def comb(frame: NDArray[np.uint8]) -> float:
    """Return how much neighbouring rows differ more than next but one: 0 without a comb."""
    luma = frame[..., 1].astype(float)
    return float(np.abs(np.diff(luma[:-1], axis=0)).mean() - np.abs(luma[2:] - luma[:-2]).mean())


@both_decoders
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", "-c:v libx264 -flags +ilme+ildct -x264-params tff=1"),
        ("a.mkv", "-c:v libx264 -flags +ilme+ildct -x264-params bff=1"),
        ("a.mov", "-c:v mpeg2video -q:v 3 -flags +ilme+ildct"),
    ],
)
def test_interlaced_frames_have_no_comb(
    tmp_path: Path, decoder: Decoder, name: str, options: str
) -> None:
    path = encode(tmp_path / name, weave(24), *options.split(), "-pix_fmt", "yuv420p")
    clip = read_video(path, decoder=decoder)
    assert clip.notes == (INTERLACED,)
    assert clip.frames.shape == (16, 96, 160, 3)
    assert comb(weave(24)[5]) > 5
    assert max(map(comb, clip.frames)) < 0.5


def test_a_camcorders_clip_is_told_to_be_interlaced(shared: Path) -> None:
    clip = read_video(shared / "cases/video/interlaced/camcorder.mp4")
    assert clip.notes == (INTERLACED,)


# A high dynamic range


def hlg_to_sdr(signal: tuple[float, float, float]) -> list[float]:
    """BT.2100 and what pipeline/video/picture.py says of its rule, one pixel, in plain numbers."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = [v**2 / 3 if v <= 0.5 else (math.exp((v - c) / a) + b) / 12 for v in signal]
    luma = 0.2627 * scene[0] + 0.6780 * scene[1] + 0.0593 * scene[2]
    return to_sdr([1000 * luma**0.2 * value for value in scene])


def pq_to_sdr(signal: tuple[float, float, float]) -> list[float]:
    m1, m2 = 2610 / 16384, 2523 / 4096 * 128
    c1, c2, c3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
    nits = []
    for value in signal:
        power = value ** (1 / m2)
        nits.append(10_000 * (max(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1))
    return to_sdr(nits)


def to_sdr(nits: list[float]) -> list[float]:
    red, green, blue = (value / 100 for value in nits)
    linear = [
        1.660491 * red - 0.587641 * green - 0.072850 * blue,
        -0.124550 * red + 1.132900 * green - 0.008349 * blue,
        -0.018151 * red - 0.100579 * green + 1.118730 * blue,
    ]
    rolled = [x if x <= 0.75 else 0.75 + 0.25 * (1 - math.exp((0.75 - x) / 0.5)) for x in linear]
    return [255 * max(x, 0) ** (1 / 2.4) for x in rolled]


@both_decoders
@pytest.mark.parametrize(
    ("transfer", "formula"), [("arib-std-b67", hlg_to_sdr), ("smpte2084", pq_to_sdr)]
)
def test_hdr_is_mapped_by_the_stated_rule(tmp_path: Path, decoder: Decoder, transfer, formula):
    colours = [(0.5, 0.45, 0.4), (0.2, 0.3, 0.25), (0.75, 0.75, 0.75), (0.62, 0.5, 0.55)]
    # The signal as 10-bit 4:4:4 in BT.2020: flat quarters, so that no chroma is interpolated.
    luma, blue, red = np.zeros((3, 64, 64), np.uint16)
    for number, (r, g, b) in enumerate(colours):
        rows = slice(32 * (number // 2), 32 * (number // 2) + 32)
        columns = slice(32 * (number % 2), 32 * (number % 2) + 32)
        y = 0.2627 * r + 0.6780 * g + 0.0593 * b
        luma[rows, columns] = round(64 + 876 * y)
        blue[rows, columns] = round(512 + 896 * (b - y) / 1.8814)
        red[rows, columns] = round(512 + 896 * (r - y) / 1.4746)
    raw = np.stack([luma, blue, red]).astype("<u2").tobytes() * 20
    path = tmp_path / "a.mkv"
    ffmpeg(
        *("-f", "rawvideo", "-pix_fmt", "yuv444p10le", "-s", "64x64", "-r", 25, "-i", "-"),
        *("-vf", f"setparams=colorspace=bt2020nc:color_primaries=bt2020:color_trc={transfer}"),
        *("-color_range", "tv", "-c:v", "libx264", "-qp", 0, path),
        feed=raw,
    )
    clip = read_video(path, decoder=decoder)
    assert clip.notes == (HDR,)
    for number, colour in enumerate(colours):
        got = clip.frames[4, 32 * (number // 2) + 16, 32 * (number % 2) + 16]
        assert got == pytest.approx(formula(colour), abs=2.5)


def test_faces_in_hlg_look_about_as_in_sdr(shared: Path) -> None:
    folder = shared / "cases/video/hdr-hlg"
    bright, plain = (read_video(folder / name) for name in ("hlg.mp4", "sdr.mp4"))
    assert bright.notes == (HDR,)
    assert plain.notes == ()
    face = np.s_[:, 60:160, 220:320]  # where her face is
    off = bright.frames[face].mean(axis=(0, 1, 2)) - plain.frames[face].mean(axis=(0, 1, 2))
    assert np.abs(off).max() < 20


# What is no video, and what hardly is one


def test_sound_with_a_cover_is_no_video(tmp_path: Path) -> None:
    picture = encode(tmp_path / "a.jpg", disc(1, height=96, width=96, squeeze=1), "-frames:v", 1)
    tone = ("-f", "lavfi", "-i", "sine=duration=1")
    stream = ("-map", 0, "-map", 1, "-c:v", "mjpeg", "-disposition:v:0", "attached_pic")
    ffmpeg(*tone, "-i", picture, *stream, "-c:a", "aac", tmp_path / "a.mp4")
    attached = ("-attach", picture, "-metadata:s:t", "mimetype=image/jpeg")
    ffmpeg(*tone, "-c:a", "libopus", *attached, tmp_path / "a.mkv")
    ffmpeg(*tone, "-c:a", "libopus", tmp_path / "b.mkv")
    for name, told in (("a.mp4", "cover picture"), ("a.mkv", "cover picture"), ("b.mkv", "stream")):
        for read in (read_video, survey):
            with pytest.raises(DataError, match=f"^not a video: .*{told}"):
                read(tmp_path / name)


def test_a_video_with_a_cover_is_its_video(tmp_path: Path) -> None:
    frames = disc(20, height=96, width=160, squeeze=1)
    video = encode(tmp_path / "v.mp4", frames, "-c:v", "libx264", "-pix_fmt", "yuv420p")
    cover = encode(tmp_path / "a.png", disc(1, height=400, width=400, squeeze=1), "-frames:v", 1)
    path = tmp_path / "a.mp4"
    ffmpeg(
        *("-i", cover, "-i", video, "-map", 0, "-map", 1, "-c", "copy", "-c:v:0", "mjpeg"),
        *("-disposition:v:0", "attached_pic", path),
    )
    assert read_video(path).frames.shape == (16, 96, 160, 3)
    assert survey(path).size == (160, 96)


@both_decoders
@pytest.mark.parametrize(("count", "few"), [(1, True), (2, True), (8, True), (9, False)])
def test_few_frames_are_told(tmp_path: Path, decoder: Decoder, count: int, few: bool) -> None:
    clip = read_video(
        write_video(tmp_path / "a.mp4", disc(count, height=96, width=160, squeeze=1)),
        decoder=decoder,
    )
    assert clip.notes == ((FEW,) if few else ())
