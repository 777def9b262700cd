"""The table of videos that the frame oracle judges: codec by container by everything else.

Out: 843 recipes of tools/faults/numbered.py. Each family varies what its name says: the order in
which frames refer to one another, pixel formats and colour tags, odd sizes, edit lists, times that
do not begin at 0 or are not even, sound beside the picture, transport streams cut in the middle.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Final

from safe.sample import KEY
from tools.faults.numbered import Recipe

Options = tuple[str, ...]
Kinds = dict[str, Options]

# Encoders


def _x264(*more: str, params: str = "") -> Options:
    joined = ":".join(part for part in ("threads=1", params) if part)
    fast = ("-c:v", "libx264", "-preset", "veryfast", "-crf", "20")
    return (*fast, *more, "-x264-params", joined)


def _x265(params: str) -> Options:
    joined = f"log-level=none:pools=none:frame-threads=1:{params}"
    return ("-c:v", "libx265", "-preset", "ultrafast", "-crf", "20", "-x265-params", joined)


def _mpeg(codec: str, *more: str) -> Options:
    return ("-c:v", codec, "-q:v", "3", *more)


def _vpx(codec: str, *more: str) -> Options:
    fast = ("-deadline", "realtime", "-cpu-used", "8", "-b:v", "500k", "-threads", "1")
    return ("-c:v", codec, *fast, *more)


_ALTREF: Final = (
    *("-deadline", "good", "-cpu-used", "5", "-b:v", "500k", "-threads", "1"),
    *("-auto-alt-ref", "1", "-lag-in-frames", "16"),
)
_CLOSED: Final = ("-flags", "+cgop", "-sc_threshold", "1000000000")
_AOM: Final = ("-c:v", "libaom-av1", "-cpu-used", "8", "-crf", "30", "-threads", "1")
_SVT: Final = ("-c:v", "libsvtav1", "-preset", "10", "-crf", "10", "-svtav1-params", "lp=1")

H264: Final[Kinds] = {
    "no-b": _x264("-bf", "0", "-g", "20"),
    "b2": _x264("-bf", "2", "-g", "20"),
    "b2-open": _x264("-bf", "2", "-g", "20", params="open-gop=1:b-adapt=0"),
    "b3-pyramid": _x264("-bf", "3", "-g", "30", params="b-pyramid=normal:b-adapt=0"),
    "b8-open-pyramid": _x264(
        *("-bf", "8", "-g", "36"), params="open-gop=1:b-adapt=0:b-pyramid=normal"
    ),
    "refs16": _x264("-bf", "3", "-g", "60", "-refs", "16"),
    "intra-refresh": _x264("-bf", "0", "-g", "25", params="intra-refresh=1"),
    "all-intra": _x264("-g", "1"),
    "long-cuts": _x264("-bf", "3", "-g", "250"),
}
"""H.264 by the order of its references."""

_FIXED: Final = "keyint={0}:min-keyint={0}:open-gop=1:scenecut=0"
HEVC: Final[Kinds] = {
    "no-b": _x265("bframes=0:keyint=20:no-open-gop=1"),
    "b4-closed": _x265("bframes=4:b-adapt=0:keyint=20:no-open-gop=1"),
    "b4-open": _x265("bframes=4:b-adapt=0:" + _FIXED.format(20)),
    "b8-open": _x265("bframes=8:rc-lookahead=20:b-adapt=0:" + _FIXED.format(27)),
    "all-intra": _x265("keyint=1"),
}
MPEG2: Final[Kinds] = {
    "no-b": _mpeg("mpeg2video", "-g", "12"),
    "b2-open": _mpeg("mpeg2video", "-bf", "2", "-g", "12"),
    "b2-closed": _mpeg("mpeg2video", "-bf", "2", "-g", "12", *_CLOSED),
    "all-intra": _mpeg("mpeg2video", "-g", "1"),
}
ASP: Final[Kinds] = {
    "no-b": _mpeg("mpeg4", "-g", "12"),
    "b2": _mpeg("mpeg4", "-bf", "2", "-g", "12"),
    "b2-qpel-4mv": _mpeg("mpeg4", "-bf", "2", "-g", "12", "-flags", "+qpel+mv4"),
    "b2-closed": _mpeg("mpeg4", "-bf", "2", "-g", "12", *_CLOSED),
}
_MJPEG: Final = _mpeg("mjpeg")
_VP8, _VP9 = _vpx("libvpx"), _vpx("libvpx-vp9")


def recipes() -> list[Recipe]:
    """Return the whole table; names are unlike one another."""
    families = (
        *(_h264, _hevc, _mpeg12, _asp, _old, _vp, _av1, _ffv1, _pixels, _tags, _sizes),
        *(_edits, _starts, _sounds, _uneven, _empty, _cut, _interlaced, _clocks, _shapes, _counts),
    )
    table = [recipe for family in families for recipe in family()]
    assert len({recipe.name for recipe in table}) == len(table)
    assert all(KEY.fullmatch(recipe.name) for recipe in table)
    return table


# Codecs


def _cross(family: str, kinds: Kinds, suffixes: str, count: int = 100) -> Iterator[Recipe]:
    """Yield each kind of encoding in each container."""
    for (kind, encode), suffix in product(kinds.items(), suffixes.split()):
        frames, scenes = (150, 37) if "cuts" in kind else (count, 0)
        name = f"{family}-{kind}-{suffix}"
        yield Recipe(name, family, suffix, encode, count=frames, scenes=scenes)


def _h264() -> Iterator[Recipe]:
    yield from _cross("h264", H264, "mp4 mov mkv avi flv ts m2ts")
    kinds = {name: H264[name] for name in ("no-b", "b2", "b2-open", "b3-pyramid")}
    yield from _cross("h264", kinds, "3gp")
    del kinds["b3-pyramid"]
    yield from _cross("h264", kinds, "mpg")
    for recipe in _cross("h264", {"b2-open": H264["b2-open"]}, "mp4 mkv avi mov"):
        yield replace(recipe, name=f"{recipe.name}-150", count=150)


def _hevc() -> Iterator[Recipe]:
    yield from _cross("hevc", HEVC, "mp4 mov mkv ts m2ts")
    tagged = {name: (*HEVC[name], "-tag:v", "hvc1") for name in ("b4-open", "b4-closed")}
    for recipe in _cross("hevc", tagged, "mp4 mov"):
        yield replace(recipe, name=f"{recipe.name}-hvc1")


def _mpeg12() -> Iterator[Recipe]:
    kinds = ("no-b", "b2-open", "b2-closed")
    mpeg1 = {name: ("-c:v", "mpeg1video", *MPEG2[name][2:]) for name in kinds}
    yield from _cross("mpeg1", mpeg1, "avi mkv mpg ts mov mp4")
    yield from _cross("mpeg2", MPEG2, "avi mkv mpg vob ts m2ts mov mp4")


def _asp() -> Iterator[Recipe]:
    yield from _cross("mpeg4", ASP, "avi mp4 mov mkv 3gp ts")
    for gop in ("12", "50"):  # two frames in a packet, as DivX and Xvid wrote them into AVI
        packed = _mpeg("libxvid", "-bf", "1", "-g", gop)
        yield Recipe(f"mpeg4-packed-{gop}-avi", "mpeg4", "avi", packed, count=100)
        for suffix in ("avi", "mp4", "mov"):
            steps = (("copy", suffix, "", "-bsf:v mpeg4_unpack_bframes"),)
            name = f"mpeg4-unpacked-{gop}-{suffix}"
            yield Recipe(name, "mpeg4", "avi", packed, count=100, steps=steps)


def _old() -> Iterator[Recipe]:
    for codec in ("msmpeg4v2", "msmpeg4"):
        yield from _cross(codec, {"p": _mpeg(codec, "-g", "20")}, "avi mkv")
    h263 = _mpeg("h263", "-g", "20")
    for size, suffix in product(((128, 96), (176, 144)), ("3gp", "mov", "avi", "mkv")):
        yield Recipe(f"h263-{size[0]}-{suffix}", "h263", suffix, h263, size=size)
    for pixels, suffix in product(
        ("yuvj420p", "yuvj422p", "yuvj444p"), ("avi", "mov", "mkv", "mp4")
    ):
        name = f"mjpeg-{pixels}-{suffix}"
        yield Recipe(name, "mjpeg", suffix, _MJPEG, pixels=pixels, count=40)


def _vp() -> Iterator[Recipe]:
    vp8 = {
        "plain": _vpx("libvpx", "-g", "20"),
        "altref": ("-c:v", "libvpx", *_ALTREF, "-g", "50"),
        "resilient": _vpx("libvpx", "-error-resilient", "default"),
    }
    vp9 = {
        "plain": _vpx("libvpx-vp9", "-g", "20"),
        "altref": ("-c:v", "libvpx-vp9", *_ALTREF, "-g", "50"),
        "parallel": _vpx("libvpx-vp9", "-frame-parallel", "1", "-g", "30"),
        "lossless": _vpx("libvpx-vp9", "-lossless", "1"),
    }
    yield from _cross("vp8", vp8, "webm mkv avi")
    yield from _cross("vp9", vp9, "webm mkv mp4", count=80)


def _av1() -> Iterator[Recipe]:
    long = (*_AOM, "-g", "60", "-lag-in-frames", "25")
    kinds = {"aom": (*_AOM, "-g", "20"), "aom-lag": long, "svt": (*_SVT, "-g", "20")}
    yield from _cross("av1", kinds, "mp4 mkv webm")


def _ffv1() -> Iterator[Recipe]:
    formats = ("yuv420p", "yuv444p", "yuv420p10le", "gray", "bgr0")
    for pixels, suffix in product(formats, ("mkv", "avi")):
        name, encode = f"ffv1-{pixels}-{suffix}", ("-c:v", "ffv1")
        yield Recipe(name, "ffv1", suffix, encode, pixels=pixels, count=40)


# Pixels


def _pixels() -> Iterator[Recipe]:
    """Pixel formats, at an even and, where the format can, at an odd size."""
    formats = {
        "h264": "yuv420p yuvj420p yuv422p yuv444p yuv420p10le yuv422p10le gray nv12",
        "hevc": "yuv420p yuv422p yuv444p yuv420p10le yuv420p12le yuv422p10le yuv444p12le gray",
        "vp9": "yuv420p yuv422p yuv444p yuv440p yuv420p10le yuv420p12le gbrp",
        "av1": "yuv420p yuv444p yuv420p10le gray",
        "mpeg2": "yuv420p yuv422p",
    }
    encoders = {"h264": H264["b2"], "hevc": HEVC["b4-closed"], "av1": _AOM}
    encoders["vp9"] = _vpx("libvpx-vp9", "-strict", "experimental")
    encoders["mpeg2"] = MPEG2["b2-closed"]
    for codec, names in formats.items():
        for pixels in names.split():
            suffix = "webm" if codec == "vp9" and pixels != "gbrp" else "mkv"
            suffix = "mp4" if codec in ("h264", "hevc") and "4" in pixels else suffix
            name, encode = f"pixels-{codec}-{pixels}", encoders[codec]
            recipe = Recipe(name, "pixels", suffix, encode, pixels=pixels, count=40)
            yield recipe
            free = "420" not in pixels and "422" not in pixels and "440" not in pixels
            if codec in ("vp9", "av1", "mpeg2") or (free and pixels != "nv12"):
                yield replace(recipe, name=f"{name}-odd", size=(113, 71))


def _tags() -> Iterator[Recipe]:
    """Colour tags: matrix and range, told or not."""
    matrices = {"untagged": "", "601": "smpte170m", "470": "bt470bg", "709": "bt709"}
    matrices |= {"2020": "bt2020nc", "240m": "smpte240m"}
    encoders = {
        "h264": (H264["b2"], ("yuv420p", "yuv444p", "yuv420p10le")),
        "hevc": (HEVC["b4-closed"], ("yuv420p", "yuv420p10le")),
        "vp9": (_VP9, ("yuv420p",)),
        "av1": (_AOM, ("yuv420p",)),
    }
    for codec, (encode, formats) in encoders.items():
        new = codec in ("vp9", "av1")
        for pixels, (word, matrix), span in product(formats, matrices.items(), ("tv", "pc")):
            if new and (word == "240m" or span == "pc"):
                continue
            tags = ("-color_range", span, *(("-colorspace", matrix) if matrix else ()))
            # Only the tags change: the numbers can be read with any.
            only = f"setparams=range={span}" + (f":colorspace={matrix}" if matrix else "")
            yield Recipe(
                *(f"tags-{codec}-{pixels}-{word}-{span}", "tags", "mkv" if new else "mp4"),
                *((*encode, *tags),),
                pixels=pixels,
                count=40,
                filters=f"format={pixels},{only}",
            )


def _sizes() -> Iterator[Recipe]:
    free = ((97, 65), (96, 65), (112, 63), (34, 50), (50, 34), (35, 51), (90, 62), (160, 90))
    even = ((34, 50), (90, 62), (160, 90), (66, 98))
    encoders = {
        "mpeg4-avi": (ASP["b2"], "avi", "yuv420p", free),
        "mpeg4-mp4": (ASP["no-b"], "mp4", "yuv420p", free),
        "mpeg2-mkv": (MPEG2["b2-open"], "mkv", "yuv420p", free),
        "mjpeg-avi": (_MJPEG, "avi", "yuvj420p", free),
        "mjpeg-mov": (_MJPEG, "mov", "yuvj422p", free),
        "vp8-webm": (_VP8, "webm", "yuv420p", free),
        "vp9-webm": (_VP9, "webm", "yuv420p", free),
        "av1-mp4": (_AOM, "mp4", "yuv420p", free[:4]),
        "h264-444-mp4": (H264["b2"], "mp4", "yuv444p", free),
        "h264-mp4": (H264["b2-open"], "mp4", "yuv420p", even),
        "h264-mkv-10": (H264["b2"], "mkv", "yuv420p10le", even),
        "hevc-mp4": (HEVC["b4-open"], "mp4", "yuv420p", even),
    }
    for word, (encode, suffix, pixels, sizes) in encoders.items():
        for size in sizes:  # encoders start so small a picture with a rate that blurs it
            name = f"size-{word}-{size[0]}x{size[1]}"
            yield Recipe(name, "sizes", suffix, encode, pixels=pixels, size=size, count=40)


# Time


def _edits() -> Iterator[Recipe]:
    """Edit lists and the ways in which mp4 and mov tell when a stream begins."""
    encoders = {
        "h264-no-b": H264["no-b"],
        "h264-b2": H264["b2"],
        "h264-open": H264["b2-open"],
        "hevc-open": HEVC["b4-open"],
        "mpeg4-b2": ASP["b2"],
    }
    ways = {
        "cut-half": (("copy", "mp4", "-ss 0.5", ""),),
        "cut-second": (("copy", "mov", "-ss 1.03", ""),),
        "cut-mkv": (("copy", "mkv", "-ss 0.9", ""),),
        "negative-cts": (("copy", "mp4", "", "-movflags negative_cts_offsets"),),
        "no-list": (("copy", "mp4", "", "-use_editlist 0"),),
        "late": (("copy", "mp4", "-itsoffset 1.5", ""),),
        "pieces": (("copy", "mp4", "", "-movflags empty_moov+frag_keyframe+default_base_moof"),),
        "pieces-cut": (("copy", "mp4", "-ss 0.5", "-movflags frag_keyframe+delay_moov"),),
        "twice": (("copy", "mp4", "-ss 0.5", ""), ("copy", "mp4", "-ss 0.6", "")),
    }
    for (kind, encode), (way, steps) in product(encoders.items(), ways.items()):
        yield Recipe(f"edit-{kind}-{way}", "edit lists", "mp4", encode, count=80, steps=steps)
    for kind in ("h264-b2", "h264-open"):
        about = (f"edit-{kind}-sound", "edit lists", "mp4", encoders[kind])
        yield Recipe(*about, count=80, sound=0.0, steps=(("copy", "mp4", "-ss 0.7", ""),))


def _starts() -> Iterator[Recipe]:
    """Clocks that do not begin at 0."""
    encoders = {
        "h264-b2": (H264["b2"], "mp4 mov mkv ts flv", "0.5 10 3600.123"),
        "mpeg4-b2": (ASP["b2"], "mp4 mov mkv ts", "0.5 10 3600.123"),
        "vp9": (_VP9, "webm mkv", "0.5 10"),
    }
    for kind, (encode, suffixes, starts) in encoders.items():
        for suffix, start in product(suffixes.split(), starts.split()):
            name = f"start-{kind}-{suffix}-{start.split('.')[0]}"
            mux = ("-output_ts_offset", start)
            yield Recipe(name, "start times", suffix, encode, mux=mux)


def _sounds() -> Iterator[Recipe]:
    encoders = {
        "h264-b2": (H264["b2"], "mp4 mov mkv avi flv ts m2ts"),
        "h264-open": (H264["b2-open"], "mp4 mkv"),
        "mpeg4-b2": (ASP["b2"], "avi mp4"),
        "mpeg2": (MPEG2["b2-open"], "mpg ts"),
        "vp8": (_VP8, "webm"),
        "mjpeg": (_MJPEG, "avi mov"),
    }
    times = {"with": 0.0, "later": 0.7, "before": -0.7, "long-before": -2.0}
    for (kind, (encode, suffixes)), (word, sound) in product(encoders.items(), times.items()):
        pixels = "yuvj420p" if kind == "mjpeg" else "yuv420p"
        for suffix in suffixes.split():
            name = f"sound-{kind}-{suffix}-{word}"
            yield Recipe(name, "sound", suffix, encode, pixels=pixels, sound=sound)


_FINE: Final = ("-fps_mode", "passthrough", "-enc_time_base", "1:1000")


def _uneven() -> Iterator[Recipe]:
    """Frames that do not come at a constant rate, or claim another."""
    ways = {
        "jitter": "settb=1/1000,setpts='PTS+12*mod(N*7,3)'",
        "strong-jitter": "settb=1/1000,setpts='PTS+17*mod(N,3)*mod(floor(N/9),2)'",
        "pause": "settb=1/1000,setpts='PTS+3000*gte(N,33)'",
        "two-pauses": "settb=1/1000,setpts='PTS+900*gte(N,11)+2000*gte(N,47)'",
        "slower": "settb=1/1000,setpts='40*N+2*N*N'",
        "lost": "settb=1/1000,select='not(between(n,20,27)+between(n,40,42)+eq(n,5))'",
    }
    encoders = {
        "h264-b2": (H264["b2"], "mp4 mov mkv flv ts"),
        "h264-no-b": (H264["no-b"], "mp4 mkv"),
        "hevc-open": (HEVC["b4-open"], "mp4 mkv"),
        "vp9": (_VP9, "webm mp4"),
        "mpeg4-no-b": (ASP["no-b"], "mp4 mkv avi"),
        "mjpeg": (_MJPEG, "mkv"),
    }
    for (kind, (encode, suffixes)), (way, filters) in product(encoders.items(), ways.items()):
        pixels = "yuvj420p" if kind == "mjpeg" else "yuv420p"
        for suffix in suffixes.split():
            about = (f"uneven-{kind}-{suffix}-{way}", "uneven", suffix, encode)
            yield Recipe(*about, pixels=pixels, filters=filters, mux=_FINE)
    for rate, suffix in product(("1", "2/3", "1000", "120"), ("mp4", "mkv", "avi", "ts")):
        name = f"rate-{rate.replace('/', '-')}-{suffix}"
        yield Recipe(name, "rates", suffix, H264["b2"], rate=rate, count=40)
    for suffix in ("mkv", "webm"):  # what browsers record: 1000 a second claimed, 25 there
        yield Recipe(
            *(f"rate-browser-{suffix}", "rates", suffix, _VP8),
            rate="1000",
            filters="setpts='40*N+mod(N*5,7)'",
            mux=("-fps_mode", "passthrough"),
        )


def _empty() -> Iterator[Recipe]:
    """AVI with empty chunks, as webcams write it where frames are lost."""
    encoders = {
        "mpeg4": (ASP["no-b"], "yuv420p"),
        "mjpeg": (_MJPEG, "yuvj422p"),
        "h264": (H264["no-b"], "yuv420p"),
        "msmpeg4": (_mpeg("msmpeg4", "-g", "20"), "yuv420p"),
    }
    frames = {
        "one": [17],
        "first": [0] * 3,
        "each-third": list(range(1, 50, 3)),
        "runs": [5] * 8 + [20] * 3 + [33, 34, 35] + [36] * 12,
        "last": [50] * 4,
        "most": [number for number in range(1, 50) for _ in range(2)],
    }
    for (kind, (encode, pixels)), (word, before) in product(encoders.items(), frames.items()):
        about = (f"empty-{kind}-{word}", "empty chunks", "avi", encode)
        yield Recipe(*about, pixels=pixels, count=50, steps=(("empty", *map(str, before)),))


def _cut() -> Iterator[Recipe]:
    """Files that begin in the middle of a group of frames."""
    encoders = {
        "h264-b2": H264["b2"],
        "h264-open": H264["b2-open"],
        "h264-pyramid": H264["b8-open-pyramid"],
        "hevc-open": HEVC["b4-open"],
        "hevc-closed": HEVC["b4-closed"],
        "mpeg2-open": MPEG2["b2-open"],
        "mpeg2-closed": MPEG2["b2-closed"],
    }
    for kind, encode in encoders.items():
        for packets, suffix in product(("35", "80"), ("ts", "m2ts")):
            steps = (("cut", packets, "192" if suffix == "m2ts" else "188"),)
            name = f"cut-{kind}-{suffix}-{packets}"
            yield Recipe(name, "cut", suffix, encode, count=100, steps=steps)
        for suffix in ("mkv", "mp4"):
            steps = (("copy", suffix, "-ss 1.0", ""),)
            yield Recipe(f"cut-{kind}-{suffix}", "cut", "ts", encode, count=100, steps=steps)


def _interlaced() -> Iterator[Recipe]:
    fields = ("-flags", "+ilme+ildct")
    kinds = {
        "h264-tff": (_x264("-bf", "2", "-g", "20", *fields, params="tff=1"), "mp4 mkv ts"),
        "h264-bff": (_x264("-bf", "2", "-g", "20", *fields, params="bff=1"), "mp4 mov avi"),
        "h264-fake": (_x264("-bf", "2", params="fake-interlaced=1"), "mp4"),
        "mpeg2": ((*MPEG2["b2-open"], *fields), "mkv mpg ts"),
        "mpeg4": ((*ASP["b2"], *fields), "avi mp4"),
    }
    for kind, (encode, suffixes) in kinds.items():
        parity = "setfield=" + ("bff" if "bff" in kind else "tff")
        for suffix in suffixes.split():
            yield Recipe(f"fields-{kind}-{suffix}", "interlaced", suffix, encode, filters=parity)


def _clocks() -> Iterator[Recipe]:
    rates = ("25", "30000/1001", "24000/1001", "60000/1001")
    for rate, scale in product(rates, ("1000", "600", "12345", "90000")):
        about = (f"clock-{rate.split('/')[0]}-{scale}", "time scales", "mp4", H264["b2"])
        yield Recipe(*about, rate=rate, mux=("-video_track_timescale", scale))
    for rate, suffix in product(("30000/1001", "12", "50"), ("mkv", "avi", "mov")):
        encode = ASP["b2"] if suffix == "avi" else H264["b2-open"]
        name = f"clock-{rate.split('/')[0]}-{suffix}"
        yield Recipe(name, "time scales", suffix, encode, rate=rate)


def _shapes() -> Iterator[Recipe]:
    """Pixels that are not square, and matrices that turn the picture."""
    for sar, suffix in product(("64/45", "4/3", "8/9"), ("mp4", "mkv", "avi")):
        encode = ASP["b2"] if suffix == "avi" else H264["b2"]
        yield Recipe(f"shape-{sar.replace('/', '-')}-{suffix}", "shapes", suffix, encode, sar=sar)
    for turn, mirrored, suffix in product((0, 90, 180, 270), (False, True), ("mp4", "mov")):
        if turn or mirrored:
            ask = f"-display_rotation {turn}" + " -display_hflip" * mirrored
            name = f"shape-turn-{turn}{'-mirror' * mirrored}-{suffix}"
            shown = {"turn": turn, "mirrored": mirrored, "steps": (("copy", suffix, ask, ""),)}
            yield Recipe(name, "shapes", "mp4", H264["b2"], **shown)


def _counts() -> Iterator[Recipe]:
    """Clips of few frames."""
    encoders = {
        "h264-mp4": (H264["b2"], "mp4"),
        "mpeg4-avi": (ASP["b2"], "avi"),
        "vp9-webm": (_VP9, "webm"),
    }
    for (kind, (encode, suffix)), count in product(encoders.items(), (1, 2, 5, 15, 16, 17, 33)):
        yield Recipe(f"count-{kind}-{count}", "few frames", suffix, encode, count=count)
