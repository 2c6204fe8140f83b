"""Copies a whole video track bit by bit beside a new sound, where a player shows it exactly as before."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

from av.packet import Packet

from model.media import encode
from model.media.lengths import timeline_origin
from model.media.opening import read_packets
from model.media.paced_sound import PacedSound, Samples
from model.media.source import Sound, open_video


def copy_video(source: str | Path, sound: Sound, path: str | Path, comment: str) -> bool:
    """Write the H.264 track of `source`, B-frames included, with all of `sound`; False if it cannot be.

    It can be if the pictures are 8-bit 4:2:0, not cropped by the container, all with a time, and none is left out: a
    file that begins with an edit in the middle of a group of pictures has some that are decoded and not shown.
    """
    with open_video(source) as (container, stream, display):
        context, time_base = stream.codec_context, stream.time_base
        head = context.extradata or b""
        is_plain = context.name == "h264" and context.pix_fmt in ("yuv420p", "yuvj420p") and not any(display.crop)
        if not is_plain or len(head) < 7 or head[0] != 1 or time_base is None:
            return False
        origin = round(Fraction(timeline_origin(container)) / time_base)
        if not _all_shown(read_packets(container, stream), origin):
            return False
    # The packets are read again instead of kept: those of a long film take gigabytes.
    with open_video(source) as (container, stream, _), encode.new_mp4(path, comment) as result:
        video = result.add_stream_from_template(stream)
        if stream.sample_aspect_ratio:  # the container's outranks the codec's
            video.codec_context.sample_aspect_ratio = stream.sample_aspect_ratio
        video.time_base = time_base
        paced = PacedSound(result, Samples.of_sound(sound))
        for packet in read_packets(container, stream):
            if not packet.size:
                continue
            assert packet.pts is not None
            assert packet.dts is not None
            paced.follow(max(0, packet.dts - origin) * time_base)
            packet.pts, packet.dts = packet.pts - origin, packet.dts - origin
            packet.time_base, packet.stream = time_base, video
            result.mux(packet)
        paced.finish(Fraction(len(sound.samples), sound.sample_rate))
    return True


def _all_shown(packets: Iterable[Packet], origin: int) -> bool:
    """Whether there are packets, all of them have times, and all are shown from `origin` on."""
    found = False
    for packet in packets:
        if not packet.size:
            continue
        if packet.pts is None or packet.dts is None or packet.is_corrupt or packet.is_discard or packet.pts < origin:
            return False
        found = True
    return found
