"""Media files in and out, through PyAV alone: what the network sees of an upload, and what a user gets back."""

from model.media.decode import decode_audio, decode_video
from model.media.encode import write_clip, write_wav
from model.media.mux import cut_wav, mux_a2v, mux_v2a
from model.media.source import MediaError

__all__ = ["MediaError", "cut_wav", "decode_audio", "decode_video", "mux_a2v", "mux_v2a", "write_clip", "write_wav"]
