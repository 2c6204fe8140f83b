"""Cost of the pictures of one output: poster and spectrogram of a 1.6 s clip, in this process and, as for uploads, in a
child of the decoder server. Prints JSON.

    python -m benchmarks.pictures [--repeats 9] [--video clip.mp4]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from model.media.mux import cut_wav, mux_v2a
from model.media.poster import draw_poster, write_poster
from model.media.spectrogram import draw_sound, write_spectrogram
from tests.clips import Film, Track, make
from workers.decoder import Decoding, Spent

SECONDS, RATE, SIDE = 1.6, 16_000, 256


def milliseconds(action: Callable[[], object], repeats: int) -> dict[str, float]:
    """Median and minimum wall-clock time, after one call that is not counted."""
    action()
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        action()
        taken.append((time.perf_counter() - began) * 1000)
    return {"median_ms": round(statistics.median(taken), 1), "least_ms": round(min(taken), 1)}


def measure(folder: Path, video: Path, repeats: int) -> dict[str, dict[str, float]]:
    torch.set_num_threads(1)
    noise = np.random.default_rng(1)
    frames = noise.integers(0, 255, (16, SIDE, SIDE, 3), np.uint8)
    sound = torch.from_numpy(noise.normal(0, 0.1, (1, round(SECONDS * RATE))).astype(np.float32))
    poster, picture = folder / "poster.webp", folder / "spectrogram.png"
    clip, wav = folder / "clip.mp4", folder / "clip.wav"
    mux_v2a(video, 0.0, SECONDS, sound, RATE, clip, "a benchmark")
    cut_wav(video, 0.0, SECONDS, wav)
    cost = {
        "poster, 16 frames of 256×256 noise": milliseconds(lambda: write_poster(poster, frames, 10), repeats),
        "spectrogram, 16 kHz noise": milliseconds(lambda: write_spectrogram(picture, sound, RATE), repeats),
        "poster of a file": milliseconds(lambda: draw_poster(clip, poster), repeats),
        "spectrogram of a file": milliseconds(lambda: draw_sound(wav, picture, SECONDS), repeats),
    }
    spent: list[Spent] = []
    with Decoding(on_spent=spent.append) as decoding:
        cost["nothing, in a child"] = milliseconds(lambda: decoding.call(str, "nothing"), repeats)
        cost["poster of a file, in a child"] = milliseconds(lambda: decoding.call(draw_poster, clip, poster), repeats)
        drawn = milliseconds(lambda: decoding.call(draw_sound, wav, picture, SECONDS), repeats)
        cost["spectrogram of a file, in a child"] = drawn
    return cost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9, help="measurements of each figure (default 9)")
    parser.add_argument("--video", type=Path, help="video file (default: a generated one, 320×240 at 30 Hz)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        film = Film(frames=60, fps=Fraction(30), width=320, height=240)
        video = options.video or make(folder / "film.mp4", film, Track(seconds=2.0))
        cost = measure(folder, video, options.repeats)
    print(json.dumps({"machine": platform.machine(), "repeats": options.repeats, "cost": cost}, indent=1))


if __name__ == "__main__":
    main()
