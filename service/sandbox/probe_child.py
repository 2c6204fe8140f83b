"""The program that looks at one upload, in a process of its own: see `service.sandbox.probe`, which starts it.

It loads the decoder, waits for one line of JSON on its standard input, gives up the means to do harm, and answers with
one line of JSON. It is run by its path, in isolated mode.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

try:
    import av
    from av.audio.stream import AudioStream
    from av.container import InputContainer
    from av.stream import Disposition, Stream
    from av.video.stream import VideoStream

    # All of the library now: what it would load when first needed could no longer be opened by then.
    for module in pkgutil.walk_packages(av.__path__, "av."):
        if module.name not in ("av.__main__", "av.datasets"):
            importlib.import_module(module.name)
except ImportError as error:
    sys.stderr.write(f"{error}\n")
    sys.exit(69)

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from service.sandbox.limits import ProcessLimits, confine

CHECK_SECONDS = 0.1
"""CPU seconds after which enough of the window is decoded. Fixed work for ordinary clips, a bound for 8K."""


DOORS = 3
"""Times that the upload is opened in advance: two looks of the decoder, and one at the bare bytes."""


class Refused(Exception):
    """What is wrong with the file; the arguments of `service.sandbox.probe.ProbeError`."""


def main() -> None:
    line = sys.stdin.buffer.readline()
    if not line:
        return  # the service ended without an upload for this child
    request = json.loads(line)
    doors = [os.open(request["path"], os.O_RDONLY) for _ in range(DOORS)]
    give_up_rights(request["limits"], doors)
    try:
        answer = examine(request, doors)
    except Refused as refusal:
        answer = {"error": refusal.args[0]}
    except (av.FFmpegError, ValueError, MemoryError) as error:
        answer = {"error": {"code": "undecodable", "message": f"the file cannot be decoded: {reason(error)}"}}
    sys.stdout.write(json.dumps(answer))
    sys.stdout.flush()
    os._exit(0)  # taking the interpreter down in order would only keep the upload waiting


def give_up_rights(limits: dict[str, Any], doors: list[int]) -> None:
    """No file can be written, no core dumped, time and memory end, and nothing further can be opened.

    The decoder duplicates a descriptor in order to read from it. There is room for that one more, and so for no other
    file and no connection while a container is open, whatever it may refer to.
    """
    most = ProcessLimits(limits["cpu_seconds"], limits["wall_seconds"], limits["memory_bytes"], file_bytes=0)
    confine(most, descriptors=max(doors) + 2)


def examine(request: dict[str, Any], doors: list[int]) -> dict[str, Any]:
    """The fields of `service.sandbox.probe.ProbeResult`. Raises Refused, or whatever the decoder raises."""
    limits, want, start = request["limits"], request["want"], request["start"]
    with open_upload(request, doors[0]) as container:
        video = next((s for s in container.streams.video if not s.disposition & Disposition.attached_pic), None)
        audio = next(iter(container.streams.audio), None)
        track = video if want == "video" else audio
        if track is None:
            found = "video only" if video else "sound only" if audio else "neither video nor sound"
            refuse(f"no_{want}_track", f"the file has no {want} track", got=found, allowed=f"a file with {want}")
        if track.codec_context is None:
            refuse("undecodable", f"the codec of the file's {want} track is not known")
        if isinstance(video, VideoStream) and track is video:
            check_pixels(video.codec_context.width, video.codec_context.height, limits)
        if isinstance(audio, AudioStream) and track is audio:
            check_sound(audio, limits)
        length = duration_of(container, track) or scanned_duration(request, doors, track.index)
        total = max(length, container.duration / av.time_base if container.duration else 0.0)
        check_whole(container, doors[-1])
        check_duration(total, length, start, limits)
        turned = check_window(container, track, start, limits)
        return {
            "container": container.format.name,
            "duration": round(total, 3),
            **describe_video(video, turned),
            **describe_audio(audio),
        }


def open_upload(request: dict[str, Any], door: int) -> InputContainer:
    """Open the file with the one demuxer that its first bytes call for; its decoders take no pictures beyond the limit.

    The library's own first look is not held to that, or it would not tell how large they are: there the limit on memory
    holds. Codecs count in blocks of up to 64 pixels; the picture itself is checked exactly when it is there.
    """
    limits = request["limits"]
    pixels = (limits["max_width"] + 64) * (limits["max_height"] + 64)
    options = request["options"] | {"fd": str(door)}
    container = av.open(request["url"], format=request["demuxer"], options=options, metadata_errors="replace")
    for stream in (*container.streams.video, *container.streams.audio):
        if stream.codec_context is not None:
            stream.codec_context.options = {"max_pixels": str(pixels)}
            stream.codec_context.thread_count = 1
    return container


def check_pixels(width: int, height: int, limits: dict[str, Any]) -> None:
    """The limit holds for pictures that stand upright too."""
    if max(width, height) > limits["max_width"] or min(width, height) > limits["max_height"]:
        refuse(
            "too_many_pixels",
            "the picture is too large",
            got=f"{width}×{height} pixels",
            allowed=f"at most {limits['max_width']}×{limits['max_height']} pixels",
        )


def check_sound(track: AudioStream, limits: dict[str, Any]) -> None:
    """Outside of these lies no real sound."""
    context = track.codec_context
    for got, unit, least, most in (
        (context.sample_rate, "Hz", limits["min_sample_rate"], limits["max_sample_rate"]),
        (context.channels, "channels", 1, limits["max_channels"]),
    ):
        if not least <= got <= most:
            refuse("undecodable", "no sound is like this", got=f"{got} {unit}", allowed=f"{least} to {most} {unit}")


def duration_of(container: InputContainer, track: Stream) -> float | None:
    """Seconds that the header says the track lasts; None if it does not (live recordings, GIF)."""
    if track.duration and track.time_base:
        return float(track.duration * track.time_base)
    return container.duration / av.time_base if container.duration else None


def scanned_duration(request: dict[str, Any], doors: list[int], index: int) -> float:
    """Seconds from the first to the last packet of the track, as far as the longest allowed is exceeded."""
    enough = request["limits"]["max_seconds"]
    os.close(doors[0])  # used already; makes room for the second look
    first = end = Fraction(0)
    seen = False
    with open_upload(request, doors[1]) as container:
        for packet in container.demux(container.streams[index]):
            if packet.pts is None:
                continue
            time, stays = packet.pts * packet.time_base, (packet.duration or 0) * packet.time_base
            first = min(first, time) if seen else time
            end = max(end, time + stays) if seen else time + stays
            seen = True
            if end - first > enough:
                break
    return float(end - first)


def check_whole(container: InputContainer, door: int) -> None:
    """An MP4 whose boxes or whose index reach beyond its end was cut off, also if the window happens to be there."""
    if "mp4" not in container.format.name:
        return  # elsewhere no length is promised, and the index is what was seen so far
    with open(door, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        indexed = (entry.pos + entry.size for stream in container.streams for entry in stream.index_entries)
        end = max([boxes_end(file, size), *indexed])
    if end > size:
        refuse("undecodable", f"the file is cut off: at its end, {end - size} bytes are missing", got=f"{size} bytes")


def boxes_end(file: BinaryIO, size: int) -> int:
    """Where the last of the file's boxes ends (ISO/IEC 14496-12, 4.2); junk after them does not count."""
    at = 0
    while at + 8 <= size:
        file.seek(at)
        header = file.read(16)
        length, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        if length < 8 or (at + length > size and kind not in (b"moov", b"mdat", b"moof")):
            break
        at += length
    return at


def check_duration(total: float, length: float, start: float, limits: dict[str, Any]) -> None:
    longest, shortest = limits["max_seconds"], limits["min_seconds"]
    if total > longest:
        refuse("too_long", "the file is too long", got=f"{total:.1f} s", allowed=f"at most {longest:g} s")
    if length < shortest:
        refuse("too_short", "the file is too short", got=f"{length:.3f} s", allowed=f"at least {shortest:g} s")
    if start > length - shortest:
        refuse(
            "too_short",
            "the window begins too late: nothing is left of the file there",
            field="start",
            got=f"{start:g} s",
            allowed=f"at most {length - shortest:.3f} s",
        )


def check_window(container: InputContainer, track: Stream, start: float, limits: dict[str, Any]) -> bool:
    """Decode the beginning of the window. True if its pictures lie on their side, to be turned by a quarter."""
    began, seen, turned = time.process_time(), False, False
    origin, time_base = track.start_time or 0, track.time_base or Fraction(1, av.time_base)
    if start > 0:
        seek(container, track, int(origin + start / time_base))
    until = origin + (start + limits["window"]) / time_base
    for frame in container.decode(track):
        seen = True
        if isinstance(frame, av.VideoFrame):
            turned = abs(frame.rotation) % 180 == 90
            check_pixels(frame.width, frame.height, limits)
        if (frame.pts is not None and frame.pts >= until) or time.process_time() - began > CHECK_SECONDS:
            break
    if not seen:
        raise ValueError("nothing could be decoded where the window begins")
    return turned


def seek(container: InputContainer, track: Stream, where: int) -> None:
    """Go to the last keyframe before `where`; in a container that cannot seek, its beginning is looked at instead."""
    try:
        container.seek(where, stream=track)
    except av.FFmpegError:
        container.seek(0)


def describe_video(track: VideoStream | None, turned: bool) -> dict[str, Any]:
    if track is None or track.codec_context is None:
        return {"video": None, "video_codec": None}
    context = track.codec_context
    width, height = (context.height, context.width) if turned else (context.width, context.height)
    rate = track.average_rate or track.guessed_rate or 0
    info = {"width": width, "height": height, "fps": round(float(rate), 3)}
    return {"video": info, "video_codec": context.codec.canonical_name}


def describe_audio(track: AudioStream | None) -> dict[str, Any]:
    if track is None or track.codec_context is None:
        return {"audio": None, "audio_codec": None}
    context = track.codec_context
    info = {"sample_rate": context.sample_rate, "channels": context.channels}
    return {"audio": info, "audio_codec": context.codec.canonical_name}


def reason(error: Exception) -> str:
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == 12:
        return "it needs more memory than is allowed"
    return getattr(error, "strerror", None) or str(error)


def refuse(code: str, message: str, **details: str) -> NoReturn:
    raise Refused({"code": code, "message": message, **details})


if __name__ == "__main__":
    main()
