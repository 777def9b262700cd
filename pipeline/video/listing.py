"""The list of a video's frames: which are shown, and when.

In: an open file. Out: a Listing, read from the packets without decoding. What is decoded is held
against it: a frame is known by its time stamp, or, where a container has none of its own (AVI), by
its order. Where the two differ and no damage was seen, the list was wrong: `list_by_decoding` makes
one that is right.
"""

import os
from dataclasses import dataclass, replace
from typing import Any, Final

import av
import av.error
import numpy as np
from numpy.typing import NDArray

from pipeline.video.container import (
    CODECS,
    SOUNDS,
    check_stream,
    decoded_frames,
    open_video,
    reading,
    recognise,
    video_stream,
    video_streams,
)
from safe.errors import DataError

MAX_FRAMES: Final = 100_000
"""Longest clip, in frames: over half an hour at 50 a second. A clip of an expression lasts seconds;
16 frames of more than this say nothing of it, and reading its list would take the deadline."""

FPS: Final = 25.0
"""Frames a second of a video that says nothing of it."""

_TRUSTED: Final = 0.1
"""Part by which the mean rate of the stamps may differ from what the container says."""

_STEADY: Final = 0.5
"""Mean frame periods that a stamp may be off its position at a constant rate."""

# Containers whose packets have stamps of their own, without any decoding; and those of which a
# decoder's stamps are the same wherever it begins. AVI knows the order of decoding alone.
_STAMPED: Final = ("mov", "matroska")
_TIMED: Final = (*_STAMPED, "mpegts", "flv")

# Codecs whose key frames may be of another size each, without the container saying so.
_RESIZING: Final = ("vp8", "vp9", "libdav1d", "av1")

# Shift and mask of the kind of a unit in its first byte; the kind of a sequence's parameters.
_PARAMETERS: Final = {"h264": (0, 31, 7), "hevc": (1, 63, 33)}


@dataclass(frozen=True)
class Listing:
    """The frames of a video, as far as they are known."""

    stamps: NDArray[np.int64]
    """When each frame is shown, ascending, in ticks: [n]."""
    length: int
    """Frames to show, also those that a cut-off file has lost: n or more."""
    tick: float
    """Seconds of one unit of the stamps."""
    fps: float
    """Frames a second; 0 where nothing says so."""
    last: int
    """Ticks that the last frame is shown."""
    zero: float
    """When a player's clock begins, by the clock of the stamps, seconds."""
    by_stamp: bool
    """Whether a decoded frame is known by its stamp; else by its order."""
    plain: bool = False
    """Whether decord may read it: it chooses demuxer, stream and decoders by itself, and can choose
    no others than the allowed ones; it loses frames where one is shown before the key frame that it
    comes after, and scales frames of another size; and it goes by these same stamps."""
    stamped: bool = False
    """Whether the container is of those whose packets have stamps of their own."""
    head: int | None = None
    """Stamp of the frame that comes first in the file. Those that are shown before it build on
    frames that were cut away, and a decoder may leave them out without any damage."""
    decoded: bool = False
    """Whether the list was made by decoding: nothing can refute it."""
    streams: int = 1
    """Video streams in the file; the frames are of the one that FFmpeg takes for the best."""

    @property
    def whole(self) -> bool:
        """Whether every frame listed is in the file."""
        return len(self.stamps) == self.length

    @property
    def start(self) -> float:
        """Seconds from a player's 0, where the file begins, to the first frame."""
        return max(0.0, int(self.stamps[0]) * self.tick - self.zero)

    @property
    def steady(self) -> bool:
        """Whether the frames come at a constant rate, so that counting them is telling time."""
        if len(self.stamps) < 3:
            return True
        first, last = int(self.stamps[0]), int(self.stamps[-1])
        step = (last - first) / (len(self.stamps) - 1)
        straight = first + step * np.arange(len(self.stamps))
        return bool(np.abs(self.stamps - straight).max() <= _STEADY * step)

    def position(self, stamp: int | None) -> int | None:
        """Return the place of the frame with this stamp; None if no frame shown has it."""
        if stamp is None:
            return None
        at = int(np.searchsorted(self.stamps, stamp))
        return at if at < len(self.stamps) and self.stamps[at] == stamp else None

    def at(self, ticks: NDArray[np.floating]) -> NDArray[np.int64]:
        """Return the places of the frames that are on the screen at some moments, in ticks."""
        after = np.searchsorted(self.stamps, ticks + 1e-6, side="right")
        return np.clip(after - 1, 0, len(self.stamps) - 1)


def list_frames(file: Any, *, most: int | None = None) -> Listing:
    """List the frames that the container wants shown, from its packets; 3 ms for a clip.

    Args:
        file: the video, open for reading bytes.
        most: frames of the longest video that is allowed; None: MAX_FRAMES, for a clip.

    Raises:
        DataError: if it is no container or codec that is allowed, cannot be opened, holds no video,
            or has frames larger than MAX_PIXELS or too many of them.
    """
    most = MAX_FRAMES if most is None else most
    kind = recognise(file)
    with reading(), open_video(file) as container:
        stream = video_stream(container)
        check_stream(stream)
        packets = _read_packets(container, stream, most)
        count = len(packets.shown)
        length = max(count, _claimed(file, kind.demuxer, stream, packets))
        if not count:
            raise DataError("no frame could be decoded")
        if length > most:
            kind_of = "a clip" if most == MAX_FRAMES else "a video"
            raise DataError(f"lists more than {most:,} frames: too long for {kind_of}")
        known = _known(packets.shown)
        by_stamp = known is not None and _has_stamps(kind.demuxer, stream, packets)
        plain = (
            by_stamp
            and kind.certain
            and not packets.leading
            and _is_even(stream, known)
            # decord scales all to the size of the first, and so squeezes what was turned half-way
            and (kind.demuxer == "mov" and stream.codec_context.name not in _RESIZING)
            and not packets.reset
            and len(video_streams(container)) == len(container.streams.video) == 1
            and all(_is_plain(other) for other in container.streams)
        )
        stamps = known if by_stamp else _times(packets, stream)
        listing = _lay_out(container, stream, stamps, count, packets.last)
        return replace(
            listing,
            length=length,
            by_stamp=by_stamp,
            plain=plain,
            stamped=kind.demuxer in _STAMPED and not _may_be_packed(stream),
            head=packets.shown[0],
        )


def list_by_decoding(file: Any, *, most: int | None = None) -> Listing:
    """List the frames that the decoder gives, in their order: right, and as slow as decoding.

    Where packets were lost the list is the container's: a frame that does not come is in it. The
    decoder's stamps are taken where they are the packets' own; else the times of the packets, in
    their order, stand for them.

    Raises:
        DataError: as list_frames.
    """
    most = MAX_FRAMES if most is None else most
    stamps: list[int | None] = []
    losses: list[None] = []
    demuxer = recognise(file).demuxer
    with reading(), open_video(file) as container:
        stream = video_stream(container)
        check_stream(stream)
        for frame, _ in decoded_frames(container, on_loss=lambda: losses.append(None)):
            stamps.append(frame.pts)
            if len(stamps) > most:
                raise DataError(f"lists more than {most:,} frames: too long")
    if not stamps:
        raise DataError("no frame could be decoded")
    if losses:  # what was lost keeps its position
        return replace(list_frames(file, most=most), plain=False, decoded=True)
    with reading(), open_video(file) as container:
        stream = video_stream(container)
        packets = _read_packets(container, stream, most)
        known = _known(stamps, ascending=True)
        timed = demuxer in _TIMED or _has_stamps(demuxer, stream, packets)
        agrees = timed and known is not None and set(stamps) <= set(packets.shown)
        times = _times(packets, stream)
        if not agrees and times is not None and len(times) >= len(stamps):
            known = times[: len(stamps)]
        listing = _lay_out(container, stream, known, len(stamps), packets.last)
        return replace(listing, by_stamp=agrees, decoded=True)


def _lay_out(
    container: Any, stream: Any, stamps: NDArray[np.int64] | None, count: int, last: int
) -> Listing:
    """List `count` frames at these stamps; without stamps, at the rate that the container says."""
    tick = float(stream.time_base or 0) or 1e-3
    said = float(stream.average_rate or 0)
    if stamps is None:
        last = max(1, round(1 / (tick * (said or FPS))))
        stamps = last * np.arange(count, dtype=np.int64)
    fps, begins = rate(said, stamps, tick), container.start_time
    return Listing(
        stamps=stamps,
        length=count,
        tick=tick,
        fps=fps,
        last=last or round(1 / (tick * (fps or FPS))),
        zero=int(stamps[0]) * tick if begins is None else begins / av.time_base,
        by_stamp=False,
        streams=len(video_streams(container)),
    )


def _claimed(file: Any, demuxer: str, stream: Any, packets: "_Packets") -> int:
    """Return how many frames there are to show by what the header says, also of a cut-off file."""
    size = os.fstat(file.fileno()).st_size
    # A damaged header may claim billions; a frame takes at least a byte.
    claimed: int = min(stream.frames, size)
    if demuxer != "avi":
        return claimed - packets.unseen
    # The header counts chunks, of which empty ones repeat a frame; the stamps count them too.
    file.seek(4)
    cut_off = int.from_bytes(file.read(4), "little") + 8 > size
    seen = max((stamp for stamp in packets.times if stamp is not None), default=0) + 1
    return len(packets.shown) + max(0, claimed - seen) if cut_off else 0


def _is_even(stream: Any, stamps: NDArray[np.int64] | None) -> bool:
    """Say whether all frames are equally far apart, and each packet is sure to hold one frame.

    decord leaves out by its stamp what is not wanted, and takes others for it where stamps are
    uneven by one tick.
    """
    steps = np.diff(stamps) if stamps is not None else np.zeros(0)
    return not _may_be_packed(stream) and bool((steps == steps[:1]).all())


def _may_be_packed(stream: Any) -> bool:
    """Say whether a packet may hold two frames and the next one none (MPEG-4 with B-frames)."""
    return stream.codec_context.name == "mpeg4" and bool(stream.codec_context.has_b_frames)


def rate(said: float, stamps: NDArray[np.int64], tick: float) -> float:
    """Return frames a second; believe a container (0: it says nothing) if its stamps say the same.

    What a browser records often claims 1000 frames a second.
    """
    shown = float(stamps[-1] - stamps[0]) * tick
    if not shown:
        return said
    mean = (len(stamps) - 1) / shown
    return said if abs(said - mean) <= _TRUSTED * mean else mean


def _has_stamps(demuxer: str, stream: Any, packets: "_Packets") -> bool:
    """Say whether the stamps of the packets are the container's own and not guessed from others."""
    if demuxer in _STAMPED:
        return True
    return not stream.codec_context.has_b_frames and packets.shown == packets.times


def _times(packets: "_Packets", stream: Any) -> NDArray[np.int64] | None:
    """Return the decoding stamps in their order, as the times of frames that have no others."""
    times = _known(packets.times)
    if times is not None and stream.codec_context.has_b_frames and len(times) > 2:
        steps = np.diff(times)
        usual = int(np.median(steps))
        if steps[0] > usual:  # what a muxer sets before the first frame, for the reordering
            times[0] = times[1] - usual
    return times


def _known(stamps: list[int | None], *, ascending: bool = False) -> NDArray[np.int64] | None:
    """Return stamps in ascending order; None if one is missing or there twice, or out of order."""
    known = [stamp for stamp in stamps if stamp is not None]
    array = np.array(known, np.int64)
    array = array if ascending else np.sort(array)
    good = len(known) == len(stamps) and bool((np.diff(array) > 0).all())
    return array if good else None


@dataclass
class _Packets:
    """What the packets of a stream say."""

    shown: list[int | None]
    """The presentation stamp of each that holds a frame to show."""
    times: list[int | None]
    """The decoding stamps of the same."""
    unseen: int = 0
    """Those that hold none: an edit list hides it, the codec does, or it is empty (AVI)."""
    last: int = 0
    """Ticks of the frame that is shown last; 0 where it is not said."""
    reset: bool = False
    """Whether a packet brings parameters of the decoder, so a size, of its own."""
    leading: bool = False
    """Whether a frame is shown before the key frame that it comes after (open groups)."""


def _read_packets(container: Any, stream: Any, most: int) -> _Packets:
    """Read the packets, up to one too many."""
    found = _Packets([], [])
    latest = key = None
    try:
        for packet in container.demux(stream):
            if not packet.size:  # an empty chunk repeats the frame before it; or the end
                found.unseen += packet.dts is not None
            elif packet.is_discard or _hides(stream, packet):
                found.unseen += 1
            else:
                found.shown.append(packet.pts)
                found.times.append(packet.dts)
                found.reset = found.reset or _resets(stream, packet)
                key = packet.pts if packet.is_keyframe else key
                found.leading = found.leading or None in (key, packet.pts) or packet.pts < key
                if packet.pts is not None and (latest is None or packet.pts > latest):
                    latest, found.last = packet.pts, packet.duration or 0
            if found.unseen + len(found.shown) > most:
                break
    except MemoryError:
        raise
    except av.error.FFmpegError:
        pass  # cut off: the frames up to here are listed, the rest are claimed
    return found


def _hides(stream: Any, packet: Any) -> bool:
    """Say whether a packet holds a frame that is never shown, only referred to (VP8)."""
    return stream.codec_context.name == "vp8" and not bytes(packet)[0] & 0x10


def _resets(stream: Any, packet: Any) -> bool:
    """Say whether a packet brings new parameters: beside its data, or H.264's and HEVC's in it."""
    if packet.has_sidedata("new_extradata"):
        return True
    kind = _PARAMETERS.get(stream.codec_context.name)
    if kind is None or not packet.is_keyframe:
        return False
    data, at = memoryview(packet), 0
    while at + 4 < len(data):  # units, each behind its length in 4 bytes
        length = int.from_bytes(data[at : at + 4])
        if (data[at + 4] >> kind[0]) & kind[1] == kind[2]:
            return True
        at += 4 + length
    return False


def _is_plain(stream: Any) -> bool:
    """Whether nothing, or a decoder that is allowed, would be opened for a stream."""
    context = stream.codec_context
    return context is None or context.codec.canonical_name in (*CODECS, *SOUNDS)
