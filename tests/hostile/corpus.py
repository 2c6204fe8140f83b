"""All inputs together. The same seed makes the same files (encoders of one version given)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.hostile.case import ACCEPTED, Case, only
from tests.hostile.damage import damaged
from tests.hostile.movies import movies
from tests.hostile.oddities import encoded, headers
from tests.hostile.pretenders import pretenders
from tests.hostile.sources import Sources, load_sources

NAMES = (
    "../../etc/passwd", "/etc/passwd", "..\\..\\windows\\win.ini", "a\0.mp4", "a%00.mp4", "\0", "", ".", "..", "-i",
    "--help", "; rm -rf ~", "$(id)", "`id`", "|id", "a\tb.mp4", "a\x1b[31m.mp4", "x" * 5000 + ".mp4", "CON", "NUL.mp4",
    "http://127.0.0.1/x.mp4", "file:///etc/passwd", "pipe:0", "fd:0", "concat:/etc/passwd|/etc/passwd", "%03d.png",
    "subfile,,start,0,end,9,,:/etc/passwd", "data:text/plain,x", "<script>alert(1)</script>.mp4", "été 🐇.mp4",
    "\u202egpj.mp4", "\ud7ff\uffff.mp4", "a.m3u8", "a.tar.gz", "a." + "b" * 300, "~/.ssh/id_rsa", "a/b/c/d.mp4",
    "\u2215etc\u2215passwd", "*", "?", "{a,b}", "input.mp4", "manifest.json",
)  # fmt: skip
"""What a client may call a file. It is shown, and never used."""


def build(folder: Path, seed: int, canary: Path, port: int) -> list[Case]:
    """Every input. Playlists and references name the file `canary` and the loopback `port`; `folder` is for scratch.

    The canary is filled with a clip: whoever follows a reference finds what it was promised.
    """
    sources = load_sources(folder)
    canary.write_bytes(sources.files["mp4"])
    return [
        *damaged(sources, seed),
        *pretenders(sources, seed, str(canary), port),
        *movies(sources, str(canary), port),
        *encoded(folder),
        *headers(sources),
        *_named(sources),
    ]


def _named(sources: Sources) -> Iterator[Case]:
    for name in NAMES:
        answers = only(ACCEPTED) if len(name) < 4000 else only("malformed")  # longer than any header may be
        yield Case("name", ascii(name[:40]), sources.files["m4a"], "a2v", name, answers)
