"""The child process that probes one upload. `service.sandbox.probe` starts it.

It loads the decoder, reads one line of JSON from standard input, restricts its own process, probes the file and writes
one line of JSON. It is run by its path, in Python's isolated mode.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
try:
    import av
    from av.audio.stream import AudioStream
    from av.container import InputContainer
    from av.video.stream import VideoStream

    from service.sandbox.loading import load_decoder

    load_decoder()
except ImportError as error:
    sys.stderr.write(f"{error}\n")
    sys.exit(69)

from model.media import lengths, mp4_boxes, opening, tracks
from model.media.containers import Signature
from model.media.display import display_of
from model.media.opening import MediaError
from service.sandbox.limits import ProcessLimits, confine

CHECK_SECONDS = 0.1
"""CPU seconds after which enough of the window is decoded. Fixed work for ordinary clips, a bound for 8K."""

PNG, PNG_HEAD = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", 8
"""Signature of a PNG with length and type of its first chunk, and the bytes of width and height that follow (RFC 2083).
"""

COUNT_SHARE = 0.75
"""Part of the CPU time that counting packets may take."""


class RefusedUpload(Exception):
    """The upload cannot be used. Its argument holds those of `service.sandbox.probe.ProbeError`."""


def main() -> None:
    line = sys.stdin.buffer.readline()
    if not line:
        return  # the service ended without using this child
    request = json.loads(line)
    descriptor = os.open(request["path"], os.O_RDONLY)
    restrict_process(request["limits"], descriptor)
    try:
        answer = (examine_mask if request["want"] == "mask" else examine)(request, descriptor)
    except RefusedUpload as refusal:
        answer = {"error": refusal.args[0]}
    except tracks.UnsupportedCodecError as error:
        answer = {
            "error": {
                "code": "undecodable",
                "message": str(error),
                "got": f"codec {error.codec}",
                "allowed": "codecs that FFmpeg decodes, such as H.264, HEVC, VP9, AV1, AAC, MP3, Opus, FLAC and PCM",
            }
        }
    except MediaError as error:
        answer = {"error": {"code": "undecodable", "message": str(error)}}
    except (av.FFmpegError, ValueError, MemoryError) as error:
        answer = {"error": {"code": "undecodable", "message": f"the file cannot be decoded: {opening.reason(error)}"}}
    sys.stdout.write(json.dumps(answer))
    sys.stdout.flush()
    os._exit(0)  # an orderly shutdown of the interpreter would only keep the upload waiting


def restrict_process(limits: dict[str, Any], descriptor: int) -> None:
    """Limit time and memory, and forbid writing files, dumping core and opening further files.

    The decoder duplicates a descriptor in order to read from it. The limit on descriptors leaves room for that one, so
    no other file and no connection can be opened while a container is open. SIGPROF ends the process when its CPU time
    is used up. That time counts from here, without loading the decoder.
    """
    used, allowed = math.ceil(time.process_time()), math.ceil(limits["cpu_seconds"])
    most = ProcessLimits(used + allowed + 1, limits["wall_seconds"], limits["memory_bytes"], file_bytes=0)
    confine(most, descriptors=descriptor + 2)
    signal.setitimer(signal.ITIMER_PROF, max(1e-6, limits["cpu_seconds"]))


def examine(request: dict[str, Any], descriptor: int) -> dict[str, Any]:
    """Return the fields of `service.sandbox.probe.ProbeResult`.

    Raises RefusedUpload, MediaError or a decoder's error.
    """
    limits, want, start = request["limits"], request["want"], request["start"]
    budget, open_part = lengths.Budget(COUNT_SHARE * limits["cpu_seconds"]), partial(open_upload, request, descriptor)
    answer: dict[str, Any] = {}
    there = ""
    ends: list[tuple[lengths.Part, Fraction]] = []
    for part in lengths.parts(descriptor, open_part, budget):
        with open_part(part.link) as container:
            try:
                chosen = tracks.tracks_for(container, want)
            except tracks.NoTrackError:
                there = there or contents(container)
                continue
            if not answer:
                check_tracks(chosen, limits)
                check_whole(container, descriptor)
                answer = describe(descriptor, container, chosen)
            ends.append((part, part.begin + lengths.track_end(container, chosen[0], descriptor, budget)))
    if not answer:
        refuse(f"no_{want}_track", f"the file has no {want} track", got=there, allowed=f"a file with {want}")
    length = float(ends[-1][1])
    check_duration(length, start, limits)
    part = next(part for part, end in ends if start < end)
    first = check_window(request, descriptor, part.link, max(0.0, start - float(part.begin)))
    if isinstance(first, av.AudioFrame):  # a track may change its format: the window's own counts
        channels = len(first.layout.channels) if len(answer["tracks"]) == 1 else 2
        answer["audio"] = {"sample_rate": first.sample_rate, "channels": channels}
    elif abs(first.rotation) % 180 == 90 and answer["video"]:
        answer["video"] |= {"width": answer["video"]["height"], "height": answer["video"]["width"]}
    return answer | {"duration": round(length, 3)}


def examine_mask(request: dict[str, Any], descriptor: int) -> dict[str, Any]:
    """Width and height of a mask picture. Raises RefusedUpload or a decoder's error."""
    data = os.read(descriptor, len(PNG) + PNG_HEAD)
    if not data.startswith(PNG):
        refuse("undecodable", "the mask is not a PNG picture", got="another file")
    width, height = (int.from_bytes(data[len(PNG) + at :][:4], "big") for at in (0, 4))
    check_pixels(width, height, request["limits"])
    os.lseek(descriptor, 0, os.SEEK_SET)
    with os.fdopen(descriptor, "rb", closefd=False) as file, av.open(file, "r", format="png_pipe") as container:
        frame = next(container.decode(video=0), None)
    if frame is None:
        refuse("undecodable", "the mask has no picture", got="nothing")
    check_pixels(frame.width, frame.height, request["limits"])
    plane = frame.reformat(format="gray").planes[0]
    rows = memoryview(bytes(plane))
    if not any(max(rows[at : at + plane.width]) for at in range(0, len(rows), plane.line_size)):
        refuse(
            "invalid_parameter",
            "the mask is black everywhere",
            got="no white",
            allowed="a PNG picture, white where it is new",
        )
    return {"width": frame.width, "height": frame.height}


def contents(container: InputContainer) -> str:
    """Describe in words which tracks a file has that lacks the wanted one."""
    if tracks.moving_tracks(container):
        return "video only"
    return "sound only" if tracks.sound_tracks(container) else "neither video nor sound"


def check_tracks(chosen: tuple[VideoStream | AudioStream, ...], limits: dict[str, Any]) -> None:
    """Refuse a picture that is too large, and sound with an impossible format."""
    track = chosen[0]
    if isinstance(track, VideoStream):
        check_pixels(track.codec_context.width, track.codec_context.height, limits)
    else:
        check_sound(track, limits)


def describe(
    descriptor: int, container: InputContainer, chosen: tuple[VideoStream | AudioStream, ...]
) -> dict[str, Any]:
    """Container, codecs and the tracks that players choose, with the numbers of those that the job uses."""
    videos, sounds = tracks.moving_tracks(container)[:1], tracks.sound_tracks(container)[:1]
    sides = len(chosen) if isinstance(chosen[0], AudioStream) else 1
    return {
        "container": container.format.name,
        **describe_video(descriptor, container, videos[0] if videos else None),
        **describe_audio(sounds[0] if sounds else None, sides),
        "tracks": [track.index for track in chosen],
    }


def open_upload(request: dict[str, Any], descriptor: int, link: tuple[int, int] | None = None) -> InputContainer:
    """Open the file with the demuxer that its first bytes select. Its decoders refuse pictures beyond the limit.

    The library's own analysis of the streams is exempt, because it has to find out how large the pictures are; the
    limit on memory applies to it. Codecs count in blocks of up to 64 pixels, so the limit here is larger by one block.
    The exact size is checked after decoding.
    """
    limits = request["limits"]
    pixels = (limits["max_width"] + 64) * (limits["max_height"] + 64)
    signature = Signature(request["demuxer"], request.get("skip", 0))
    return opening.open_descriptor(descriptor, pixels, 1, link, signature, request["options"])


def check_pixels(width: int, height: int, limits: dict[str, Any]) -> None:
    """Refuse a picture beyond the limit, in landscape or portrait orientation."""
    if max(width, height) > limits["max_width"] or min(width, height) > limits["max_height"]:
        refuse(
            "too_many_pixels",
            "the picture is too large",
            got=f"{width}×{height} pixels",
            allowed=f"at most {limits['max_width']}×{limits['max_height']} pixels",
        )


def check_sound(track: AudioStream, limits: dict[str, Any]) -> None:
    """Refuse a sample rate or a channel count outside the limits."""
    context = track.codec_context
    for got, unit, least, most in (
        (context.sample_rate, "Hz", limits["min_sample_rate"], limits["max_sample_rate"]),
        (context.channels, "channels", 1, limits["max_channels"]),
    ):
        if not least <= got <= most:
            refuse(
                "undecodable",
                "unsupported sample rate or channel count",
                got=f"{got} {unit}",
                allowed=f"{least} to {most} {unit}",
            )


def check_whole(container: InputContainer, descriptor: int) -> None:
    """Refuse an MP4 whose boxes or index reach beyond its end: it was cut off, even if the window is complete.

    Fragmented files are accepted, because they are made for recordings that may be cut off; their packets are counted.
    """
    if "mp4" not in container.format.name or mp4_boxes.is_fragmented(descriptor):
        return  # other containers declare no length, and their index holds only the packets read so far
    size = os.fstat(descriptor).st_size
    boxes = (end for kind, _, end in mp4_boxes.walk(descriptor) if kind in ("moov", "mdat"))
    indexed = (entry.pos + entry.size for stream in container.streams for entry in stream.index_entries)
    end = max([0, *boxes, *indexed])
    if end > size:
        refuse("undecodable", f"the file is cut off: at its end, {end - size} bytes are missing", got=f"{size} bytes")


def check_duration(length: float, start: float, limits: dict[str, Any]) -> None:
    longest, shortest = limits["max_seconds"], limits["min_seconds"]
    if length > longest:
        refuse("too_long", "the file is too long", got=f"{length:.1f} s", allowed=f"at most {longest:g} s")
    if length < shortest:
        refuse("too_short", "the file is too short", got=f"{length:.3f} s", allowed=f"at least {shortest:g} s")
    if start > length - shortest:
        refuse(
            "too_short",
            "the window begins too late: nothing is left of the file there",
            field="start",
            got=f"{start:g} s",
            allowed=f"at most {math.floor(1000 * (length - shortest)) / 1000:.3f} s",
        )


def check_window(
    request: dict[str, Any], descriptor: int, link: tuple[int, int] | None, start: float
) -> av.AudioFrame | av.VideoFrame:
    """Decode the beginning of the window and return its first frame."""
    limits = request["limits"]
    for seek in (True, False) if start > 0 else (False,):
        with open_upload(request, descriptor, link) as container:
            track, origin = tracks.tracks_for(container, request["want"])[0], lengths.timeline_origin(container)
            time_base = track.time_base or Fraction(1, av.time_base)
            if seek:
                try:
                    container.seek(int((origin + Fraction(start)) / time_base), stream=track)
                except av.FFmpegError:
                    continue  # this container cannot seek: decode from its beginning
            began, first = time.process_time(), None
            until = float(origin) + start + limits["window"]
            for frame in opening.decoded(container, track):
                at = float(frame.pts * (frame.time_base or time_base)) if frame.pts is not None else None
                if first is None or (at is not None and at <= float(origin) + start):
                    first = frame
                if isinstance(frame, av.VideoFrame):
                    check_pixels(frame.width, frame.height, limits)
                late = at is not None and at >= until
                if late or time.process_time() - began > CHECK_SECONDS:
                    break
            if first is not None:
                return first
    raise ValueError("nothing could be decoded where the window begins")


def describe_video(descriptor: int, container: InputContainer, track: VideoStream | None) -> dict[str, Any]:
    """The size is that of the displayed picture: cropped, with square pixels, before rotation."""
    if track is None or track.codec_context is None:
        return {"video": None, "video_codec": None}
    context = track.codec_context
    rate = track.average_rate or track.guessed_rate or 0
    width, height = display_of(descriptor, container, track).size(context.width, context.height)
    info = {"width": width, "height": height, "fps": round(float(rate), 3)}
    return {"video": info, "video_codec": context.codec.canonical_name}


def describe_audio(track: AudioStream | None, tracks: int) -> dict[str, Any]:
    if track is None or track.codec_context is None:
        return {"audio": None, "audio_codec": None}
    context = track.codec_context
    info = {"sample_rate": context.sample_rate, "channels": context.channels if tracks == 1 else tracks}
    return {"audio": info, "audio_codec": context.codec.canonical_name}


def refuse(code: str, message: str, **details: str) -> NoReturn:
    raise RefusedUpload({"code": code, "message": message, **details})


if __name__ == "__main__":
    main()
