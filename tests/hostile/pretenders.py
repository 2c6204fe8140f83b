"""What is no clip at all: playlists that name other files and addresses, pages, pictures, archives, and polyglots."""

from __future__ import annotations

import gzip
import io
import random
import tarfile
import zipfile
from collections.abc import Iterator

from PIL import Image

from tests.hostile.boxes import Forgery, box
from tests.hostile.case import ACCEPTED, Case, only
from tests.hostile.sources import Sources

NOT_MEDIA = only("unsupported_media")

PLAYLISTS = {
    "m3u8": "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{target}\n#EXT-X-ENDLIST\n",
    "m3u8 master": "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{target}\n",
    "m3u8 key": '#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI="{target}"\n#EXTINF:10,\n{target}\n#EXT-X-ENDLIST\n',
    "m3u8 map": '#EXTM3U\n#EXT-X-MAP:URI="{target}"\n#EXTINF:10,\n{target}\n#EXT-X-ENDLIST\n',
    "m3u8 concat": "#EXTM3U\n#EXTINF:10,\nconcat:{target}|{target}\n#EXT-X-ENDLIST\n",
    "m3u8 subfile": "#EXTM3U\n#EXTINF:10,\nsubfile,,start,0,end,64,,:{target}\n#EXT-X-ENDLIST\n",
    "m3u": "{target}\n",
    "pls": "[playlist]\nFile1={target}\nNumberOfEntries=1\n",
    "ffconcat": "ffconcat version 1.0\nfile '{target}'\n",
    "concat": "file '{target}'\nduration 5\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\n",
    "mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period><AdaptationSet><Representation>'
    "<BaseURL>{target}</BaseURL></Representation></AdaptationSet></Period></MPD>",
    "imf": '<?xml version="1.0"?><CompositionPlaylist><Id>{target}</Id></CompositionPlaylist>',
    "smil": '<smil><body><video src="{target}"/></body></smil>',
    "asx": '<asx version="3.0"><entry><ref href="{target}"/></entry></asx>',
    "xspf": '<playlist version="1"><trackList><track><location>{target}</location></track></trackList></playlist>',
    "quicktime rtsp": "rtsptextRTSP://127.0.0.1:{port}/x\n",
    "avisynth": 'DirectShowSource("{target}")\n',
    "vapoursynth": "import vapoursynth\nopen('{target}')\n",
    "lavfi": "movie={target}\n",
    "image2 pattern": "{target}%03d.png\n",
    "url file": "[InternetShortcut]\nURL={target}\n",
    "svg": '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
    '<image xlink:href="{target}"/></svg>',
    "xml entity": '<?xml version="1.0"?><!DOCTYPE r [<!ENTITY x SYSTEM "{target}">]><r>&x;</r>',
}
"""Texts that make some demuxer, or some other reader, open `{target}`, or listen on `{port}`."""

LAUGHS = '<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "ha">{}]><l>&l9;</l>'.format(
    "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10 if n else "&a;" * 10}">' for n in range(10))
)


def playlist(name: str, target: str, port: int) -> bytes:
    """The playlist called `name` in PLAYLISTS."""
    return PLAYLISTS[name].format(target=target, port=port).encode()


def pretenders(sources: Sources, seed: int, canary: str, port: int) -> Iterator[Case]:
    """Playlists for the file `canary` and the loopback port `port`, and everything else that is no clip."""
    targets = {"file": "/etc/passwd", "canary": canary, "address": f"http://127.0.0.1:{port}/x"}
    for name in PLAYLISTS:
        for what, target in targets.items():
            yield Case("playlist", f"{name} {what}", playlist(name, target, port), filename=f"{name}.mp4",
                       answers=NOT_MEDIA)  # fmt: skip
    for name in ("m3u8", "ffconcat", "sdp", "mpd"):
        yield Case("playlist", f"{name} by its own name", playlist(name, canary, port), "a2v", f"list.{name}",
                   answers=NOT_MEDIA)  # fmt: skip
    # A byte order mark is a sync word of MPEG audio, too: that text is looked at, and found to be none.
    answers = {"nothing": only("empty_file"), "utf-16": only("undecodable")}
    for name, data in _others(seed).items():
        yield Case("no media", name, data, filename=f"{name}.mp4", answers=answers.get(name, NOT_MEDIA))
    for name, data in _beginnings().items():
        yield Case("beginning", name, data, answers=only("unsupported_media", "undecodable", "too_short",
                                                       "no_video_track"))  # fmt: skip
    yield from _polyglots(sources, playlist("m3u8", canary, port))


def _others(seed: int) -> dict[str, bytes]:
    chance = random.Random(seed)
    pictures = {}
    for name in ("png", "jpeg", "webp", "bmp", "tiff", "ico", "ppm", "tga", "pcx", "avif"):
        file = io.BytesIO()
        Image.new("RGB", (64, 64), "teal").save(file, name)
        pictures[name] = file.getvalue()
    archive, tape = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("../../etc/passwd", bytes(10_000_000))
    with tarfile.open(fileobj=tape, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("../../etc/passwd"))
    return pictures | {
        "nothing": b"",
        "one byte": b"\0",
        "zeros": bytes(5000),
        "ones": b"\xff" * 5000,
        "noise": b"\x01" + chance.randbytes(5000),
        "text": b"These are words.\n" * 300,
        "utf-16": "Wörter".encode("utf-16") * 300,
        "html": b"<!doctype html><html><body onload=alert(1)>log in</body></html>",
        "html upper": b"<HTML><SCRIPT>alert(1)</SCRIPT></HTML>",
        "svg bare": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
        "xml": b"<?xml version='1.0'?><a/>",
        "billion laughs": LAUGHS.encode(),
        "json": b'{"file": "/etc/passwd"}',
        "pdf": b"%PDF-1.7\n1 0 obj<</OpenAction<</S/JavaScript>>>>endobj\n",
        "postscript": b"%!PS\n(/etc/passwd) (r) file\n",
        "zip bomb": archive.getvalue(),
        "tar": tape.getvalue(),
        "gzip": gzip.compress(bytes(10_000_000)),
        "elf": b"\x7fELF\x02\x01\x01" + bytes(200),
        "exe": b"MZ" + bytes(200),
        "shell": b"#!/bin/sh\ntouch /tmp/owned\n",
        "python": b"import os\nos.system('id')\n",
        "pickle": b"\x80\x04cos\nsystem\n(S'id'\ntR.",
        "flv": b"FLV\x01\x05\0\0\0\x09" + bytes(200),
        "asf": bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c") + bytes(200),
        "realmedia": b".RMF\0\0\0\x12" + bytes(200),
        "swf": b"FWS\x09" + bytes(200),
        "midi": b"MThd\0\0\0\x06\0\1\0\1\0\x60MTrk" + bytes(200),
        "nut": b"nut/multimedia container\0" + bytes(200),
        "ivf": b"DKIF\0\0\x20\0VP80" + bytes(200),
        "y4m": b"YUV4MPEG2 W64 H64 F25:1\nFRAME\n" + bytes(6144),
        "mxf": bytes.fromhex("060e2b34020501010d0102010102") + bytes(200),
        "mpeg-ps": b"\0\0\1\xba" + bytes(200),
        "h264 bare": b"\0\0\0\1\x67\x42\0\x0a" + bytes(200),
        "srt": b"1\n00:00:00,000 --> 00:00:05,000\nHello\n",
        "webvtt": b"WEBVTT\n\n00:00.000 --> 00:05.000\nHello\n",
        "ass": b"[Script Info]\nScriptType: v4.00+\n",
        "ffmetadata": b";FFMETADATA1\ntitle=x\n",
        "caf": b"caff\0\1\0\0" + bytes(200),
        "au": b".snd\0\0\0\x18" + bytes(200),
        "amr": b"#!AMR\n" + bytes(200),
        "dsf": b"DSD " + bytes(200),
        "wavpack": b"wvpk" + bytes(200),
        "riff other": b"RIFF\x10\0\0\0WEBPVP8 " + bytes(200),
        "heic": box(b"ftyp", b"heic\0\0\0\0mif1heic") + bytes(200),
    }


def _beginnings() -> dict[str, bytes]:
    """Signatures with nothing, or nothing sensible, behind them."""
    heads = {
        "mp4": box(b"ftyp", b"isom\0\0\0\0"), "matroska": b"\x1a\x45\xdf\xa3", "avi": b"RIFF\xff\xff\xff\xffAVI ",
        "wave": b"RIFF\xff\xff\xff\xffWAVE", "rf64": b"RF64\xff\xff\xff\xffWAVE", "aiff": b"FORM\xff\xff\xff\xffAIFF",
        "gif": b"GIF89a", "flac": b"fLaC", "ogg": b"OggS", "id3": b"ID3\4\0\0\0\0\0\0", "mp3": b"\xff\xfb\x90\x64",
        "adts": b"\xff\xf1\x50\x80", "mpegts": (b"G" + bytes(187)) * 4, "mdat": box(b"mdat", bytes(100)),
        "m2ts": (bytes(4) + b"G" + bytes(187)) * 4,
    }  # fmt: skip
    tails = {"alone": b"", "and zeros": bytes(4000), "and text": b"#EXTM3U\nfile:///etc/passwd\n" * 100}
    return {f"{head} {tail}": heads[head] + tails[tail] for head in heads for tail in tails}


def _polyglots(sources: Sources, script: bytes) -> Iterator[Case]:
    """Files that are two things at once: only the one that the first bytes say counts."""
    mp4, mp3 = sources.files["mp4"], sources.files["mp3"]
    page = b"<html><script>alert(1)</script></html>"
    length = bytes(len(page) >> shift & 0x7F for shift in (21, 14, 7, 0))
    works, sounds = only(ACCEPTED), only(ACCEPTED)

    def boxed(text: bytes) -> bytes:
        return Forgery(sources.h264, before=box(b"skip", text)).write()

    yield Case("polyglot", "page behind a clip", mp4 + page, answers=works)
    yield Case("polyglot", "page in a box before a clip", boxed(page), answers=works)
    yield Case("polyglot", "playlist in a box before a clip", boxed(script), answers=works)
    yield Case("polyglot", "archive behind a clip", mp4 + b"PK\5\6" + bytes(18), answers=works)
    yield Case("polyglot", "playlist before a clip", script + mp4, answers=NOT_MEDIA)
    yield Case("polyglot", "page before a clip", page + mp4, answers=NOT_MEDIA)
    yield Case("polyglot", "two clips in one", mp4 + mp4)
    yield Case("polyglot", "page as a tag of a song", b"ID3\4\0\0" + length + page + mp3, "a2v", answers=sounds)
    yield Case("polyglot", "playlist behind a tag", b"ID3\4\0\0\0\0\0\0" + script, "a2v")
    yield Case("polyglot", "clip behind a tag", b"ID3\4\0\0\0\0\0\0" + mp4)
    yield Case("polyglot", "tag of 256 MB", b"ID3\4\0\0\x7f\x7f\x7f\x7f" + mp3, "a2v")
    yield Case("polyglot", "picture that is an address", _linked_cover(mp3), "a2v", answers=sounds)
    yield Case("polyglot", "gif with script", b"GIF89a/*" + sources.files["gif"][8:] + b"*/=1;alert(1)")
    yield Case("polyglot", "clip called a song", mp4, "a2v", "song.mp3", answers=works)
    yield Case("polyglot", "song called a clip", mp3, "a2v", "clip.mp4", answers=sounds)
    yield Case("polyglot", "song for its pictures", mp3, "v2a", answers=only("no_video_track"))
    yield Case("polyglot", "pictures for their sound", sources.files["gif"], "a2v", answers=only("no_audio_track"))


def _linked_cover(song: bytes) -> bytes:
    """ID3v2 knows pictures that are only an address (4.14 of the ID3v2.4 frames): type `-->`."""
    picture = b"\0-->\0\3\0file:///etc/passwd"
    frame = b"APIC" + len(picture).to_bytes(4, "big") + b"\0\0" + picture
    return b"ID3\3\0\0" + bytes(len(frame) >> shift & 0x7F for shift in (21, 14, 7, 0)) + frame + song
