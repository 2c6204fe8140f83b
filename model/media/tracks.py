"""The tracks of a file that a job uses: those that players choose."""

from __future__ import annotations

from typing import Literal, TypeVar

from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from model.media.opening import ENCRYPTED, UNSUPPORTED_CODEC, MediaError, is_encrypted

Track = TypeVar("Track", VideoStream, AudioStream)

_PICTURES = Disposition.attached_pic | Disposition.timed_thumbnails
_SPECIAL = Disposition.comment | Disposition.hearing_impaired | Disposition.visual_impaired
_SIDES = {"FL": "FR", "FR": "FL"}


class NoTrackError(MediaError):
    """The file has no such track."""


class UnsupportedCodecError(MediaError):
    """The codec of the wanted track has no decoder. `codec`: its name."""

    def __init__(self, what: str, codec: str) -> None:
        super().__init__(f"the codec of the file's {what} track, {codec}, is not supported")
        self.codec = codec


def is_picture(stream: Stream) -> bool:
    """True for a cover or thumbnails, which some containers store as video tracks."""
    return bool(stream.disposition & _PICTURES)


def moving_tracks(container: InputContainer) -> list[VideoStream]:
    """Video tracks without attached pictures, the one that players choose first."""
    return sorted((stream for stream in container.streams.video if not is_picture(stream)), key=_rank)


def sound_tracks(container: InputContainer) -> list[AudioStream]:
    """Audio tracks, the one that players choose first."""
    return sorted(container.streams.audio, key=_rank)


def _rank(track: VideoStream | AudioStream) -> tuple[bool, bool, bool, bool]:
    """Decodable tracks first, then those with data, then the default ones, then those without comments."""
    context = track.codec_context
    size = getattr(context, "width" if isinstance(track, VideoStream) else "sample_rate", 0)
    default = bool(track.disposition & Disposition.default)
    return context is None, not size, not default, bool(track.disposition & _SPECIAL)


def tracks_for(container: InputContainer, what: Literal["video", "audio"]) -> tuple[VideoStream | AudioStream, ...]:
    """The tracks that a job uses which wants the video, or the audio. Raises MediaError as the two below."""
    return (video_track(container),) if what == "video" else audio_tracks(container)


def video_track(container: InputContainer) -> VideoStream:
    """The video track that players choose. Raises MediaError if there is none that can be decoded."""
    return _first(moving_tracks(container), "video")


def audio_tracks(container: InputContainer) -> tuple[AudioStream, ...]:
    """The audio track that players choose; two if it is the left or right channel alone and the other is flagged so.

    Raises MediaError if there is none that can be decoded.
    """
    tracks = sound_tracks(container)
    first = _first(tracks, "audio")
    other = _SIDES.get(_single_channel(first))
    pair = (each for each in tracks if other and _single_channel(each) == other and each.rate == first.rate)
    second = next(pair, None)
    if second is None:
        return (first,)
    return (first, second) if other == "FR" else (second, first)


def _single_channel(track: AudioStream) -> str:
    channels = track.codec_context.layout.channels if track.codec_context is not None else ()
    return channels[0].name if len(channels) == 1 else ""


def _first(tracks: list[Track], what: str) -> Track:
    if not tracks:
        raise NoTrackError(f"the file has no {what} track")
    if is_encrypted(tracks[0]):
        raise MediaError(ENCRYPTED)
    if tracks[0].codec_context is None:
        raise UnsupportedCodecError(what, tracks[0].metadata.get(UNSUPPORTED_CODEC, "unknown"))
    return tracks[0]
