"""Measures the mark in the signal: false positives, what it survives, and how faint it is. Prints JSON.

    python -m benchmarks.signal_mark PART [--clips N] [--real FOLDER] [--folder DIR] [--seconds S]
        [--json docs/figures/signal_mark.json]

`null-pictures`, `null-sounds`: the scores of N clips without a mark, each of its own scene of `bounce` or `scenes` (4
frames of 64×64; 1.6 s at 8 kHz). Every twentieth is a window of a real clip where FOLDER has one; the windows overlap.
With DIR each finding is kept there once it is known, so that a run that was stopped, or has used up its seconds, goes
on. `marked`: N clips of each kind with the mark, after each attack, and what the mark costs. With --json the part is
added to the file.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.report import processor
from model.checkpoint.manifest import find_models
from model.marking.keys import PUBLISHED_KEY
from model.marking.pictures import PictureDetector, PictureMark
from model.marking.significance import NOMINAL_RATE, Finding
from model.marking.sound import RATE, SoundDetector, marked_sound
from model.media.aac import as_float
from model.media.resampling import resample
from model.networks.config import ClipSpec
from model.request import SamplingParams
from model.runtime.pipeline import ClipRequest, Pipeline
from model.training.bounce import Bounce
from model.training.scenes import Scenes

FPS = 10
LEVELS = (1e-1, 1e-2, 1e-3, 1e-4)
REAL_SHARE = 20
"""One clip of so many without a mark is a window of a real clip."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=(*NULL, "marked"))
    parser.add_argument("--clips", type=int, default=10_000)
    parser.add_argument("--real", type=Path, default=os.environ.get("DUET_CLIPS_DIR"))
    parser.add_argument("--folder", type=Path, help="keep the findings in clips without a mark here")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="score no clip without a mark after this")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    surroundings = {"date": datetime.now(UTC).date().isoformat(), "processor": processor()}
    if arguments.part == "marked":
        found = marked(arguments.clips, arguments.real)
    else:
        until = time.monotonic() + arguments.seconds
        found = NULL[arguments.part](arguments.clips, arguments.real, arguments.folder, until)
    measured = surroundings | found
    print(json.dumps(measured, indent=1))
    if arguments.json is not None:
        known = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
        arguments.json.write_text(json.dumps(known | {arguments.part: measured}, indent=1) + "\n")


def null_pictures(
    count: int, real: Path | None, folder: Path | None = None, until: float = float("inf")
) -> dict[str, Any]:
    spec = ClipSpec(frames=4, fps=FPS, height=64, width=64, sample_rate=1280)
    windows = _real_pictures(real, count // REAL_SHARE) if real is not None else []
    clips = _mixed((pictures for pictures, _ in _synthetic(spec, count)), windows, count)
    path = _path(folder, "null-pictures", count, real)
    return _null(_scored(clips, _in_pictures, path, until), count, len(windows))


def null_sounds(
    count: int, real: Path | None, folder: Path | None = None, until: float = float("inf")
) -> dict[str, Any]:
    spec = ClipSpec(frames=16, fps=FPS, height=16, width=16, sample_rate=RATE)
    windows = _real_sounds(real, count // REAL_SHARE) if real is not None else []
    clips = _mixed((sound for _, sound in _synthetic(spec, count)), windows, count)
    path = _path(folder, "null-sounds", count, real)
    return _null(_scored(clips, lambda sound: _in_sound(sound, RATE), path, until), count, len(windows))


def _mixed(synthetic: Iterator[np.ndarray], windows: list[np.ndarray], count: int) -> Iterator[np.ndarray]:
    """`count` clips, of which every REAL_SHARE-th is one of `windows`, if there are any."""
    real = iter(windows)
    for number in range(1, count + 1):
        yield next(real) if windows and number % REAL_SHARE == 0 else next(synthetic)


def _path(folder: Path | None, part: str, count: int, real: Path | None) -> Path | None:
    return None if folder is None else folder / f"{part}-{count}{'-real' if real is not None else ''}.jsonl"


def _scored(
    clips: Iterator[np.ndarray], find: Callable[[np.ndarray], Finding], path: Path | None, until: float
) -> list[Finding]:
    """The findings in `clips`, at least one and none after `until`. Those that `path` has are not made again."""
    found: list[Finding] = []
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        whole = [line for line in lines if line.endswith("\n")]
        found = [Finding(**json.loads(line)) for line in whole]
        path.write_text("".join(whole))
    with nullcontext() if path is None else path.open("a") as file:
        for clip in islice(clips, len(found), None):
            if found and time.monotonic() >= until:
                break
            found.append(find(clip))
            if file is not None:
                file.write(json.dumps(asdict(found[-1])) + "\n")
                file.flush()
    return found


def marked(count: int, real: Path | None) -> dict[str, Any]:
    """Of each kind: `rates` of detection after each attack, the 5th percentile of the score, and the loss."""
    kinds: dict[str, Iterator[tuple[np.ndarray, np.ndarray, int]]] = {
        "bounce 128": rendered(Bounce, 128, 8000),
        "scenes 128": rendered(Scenes, 128, 16_000),
        "scenes 256": rendered(Scenes, 256, 16_000),
        "demo model 128": _generated(),
    }
    if real is not None:
        kinds["real 128"] = _real_clips(real, count)
    return {name: attacked(list(islice(clips, count))) for name, clips in kinds.items()}


NULL = {"null-pictures": null_pictures, "null-sounds": null_sounds}


def _null(findings: list[Finding], wanted: int, windows: int) -> dict[str, Any]:
    """How often clips without a mark reach a chance of at most each of LEVELS, which theory bounds by that level.
    `score_at_level` has the levels of which so many clips can tell."""
    note = f"every {REAL_SHARE}th clip is a window of a real one" if windows else "no real clips"
    if len(findings) < wanted:
        note += f"; stopped before {wanted:,} clips"
    chances, scores = np.array([each.chance for each in findings]), np.array([each.score for each in findings])
    return {
        "note": note,
        "clips": len(findings),
        "threshold": findings[0].threshold,
        "nominal_rate": NOMINAL_RATE,
        "found": int(sum(each.found for each in findings)),
        "measured_at_level": {f"{level:g}": float((chances <= level).mean()) for level in LEVELS},
        "score_at_level": {
            f"{level:g}": float(np.quantile(scores, 1 - level, method="higher"))
            for level in LEVELS
            if level * len(findings) >= 1
        },
        "greatest_score": float(scores.max()),
    }


def attacked(clips: list[tuple[np.ndarray, np.ndarray, int]]) -> dict[str, Any]:
    findings: dict[str, list[Finding]] = {}
    psnr, snr, nmr, seconds = [], [], [], []
    for number, (pictures, sound, rate) in enumerate(clips):
        began = time.process_time()
        seen = PictureMark(PUBLISHED_KEY).applied(pictures)
        heard = marked_sound(sound, rate, PUBLISHED_KEY)
        seconds.append(time.process_time() - began)
        psnr.append(10 * np.log10(255**2 / np.square(seen.astype(np.float64) - pictures).mean()))
        if sound.any():
            snr.append(10 * np.log10(np.square(sound).sum() / np.square(heard - sound).sum()))
            nmr.append(noise_to_mask(sound[0], (heard - sound)[0], rate))
        generator = np.random.default_rng(number)
        for name, attack in PICTURE_ATTACKS.items():
            findings.setdefault(f"picture: {name}", []).append(_in_pictures(attack(seen, generator)))
        for name, change in SOUND_ATTACKS.items():
            findings.setdefault(f"sound: {name}", []).append(_in_sound(*change(heard, rate, generator)))
    return {
        "clips": len(clips),
        "detected": {name: float(np.mean([each.found for each in found])) for name, found in findings.items()},
        "score_5_percent": {
            name: round(float(np.quantile([each.score for each in found], 0.05)), 1) for name, found in findings.items()
        },
        "psnr_least_db": round(min(psnr), 2),
        "snr_median_db": round(float(np.median(snr)), 1),
        "noise_to_mask_median_db": round(float(np.median(nmr)), 1),
        "noise_to_mask_greatest_db": round(max(nmr), 1),
        "cpu_seconds_a_clip": round(float(np.median(seconds)), 4),
    }


def _cropped(pictures: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Without a tenth of either side, anywhere."""
    height, width = pictures.shape[1:3]
    top, left = (int(generator.integers(0, side - round(0.9 * side) + 1)) for side in (height, width))
    return pictures[:, top : top + round(0.9 * height), left : left + round(0.9 * width)]


def _halved(pictures: np.ndarray) -> np.ndarray:
    moved = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2)
    return F.interpolate(moved, scale_factor=0.5, mode="bicubic", antialias=True).permute(0, 2, 3, 1).numpy()


def _even(pictures: np.ndarray) -> np.ndarray:
    return pictures[:, : pictures.shape[1] // 2 * 2, : pictures.shape[2] // 2 * 2]


def _noisy_pictures(pictures: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    power = np.square(pictures.astype(np.float64)).mean() / 1000
    noise = generator.standard_normal(pictures.shape) * np.sqrt(power)
    return np.clip(np.rint(pictures + noise), 0, 255).astype(np.uint8)


PICTURE_ATTACKS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "as written (CRF 12)": lambda pictures, _: h264(pictures, 12, "veryfast"),
    "H.264 CRF 28": lambda pictures, _: h264(pictures, 28),
    "scaled by 1/2": lambda pictures, _: _halved(pictures),
    "cropped by 10 %": _cropped,
    "noise at 30 dB": _noisy_pictures,
    "half its time": lambda pictures, _: pictures[len(pictures) // 4 : -len(pictures) // 4],
    "scaled by 1/2, CRF 28": lambda pictures, _: h264(_halved(pictures), 28),
    "cropped by 10 %, CRF 28": lambda pictures, generator: h264(_even(_cropped(pictures, generator)), 28),
    "H.264 CRF 35": lambda pictures, _: h264(pictures, 35),
}

SoundAttack = Callable[[np.ndarray, int, np.random.Generator], tuple[np.ndarray, int]]


def _at(sound: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    return resample(torch.from_numpy(as_float(sound)), rate, new_rate).numpy()


def _noisy(sound: np.ndarray, rate: int, generator: np.random.Generator) -> tuple[np.ndarray, int]:
    power = np.square(sound).mean() / 1000
    return sound + generator.standard_normal(sound.shape) * np.sqrt(power), rate


def _cut(sound: np.ndarray, rate: int, generator: np.random.Generator) -> tuple[np.ndarray, int]:
    """Without a tenth at either end, less a random part of it."""
    tenth = sound.shape[1] // 10
    return sound[:, int(generator.integers(1, tenth)) : -tenth], rate


SOUND_ATTACKS: dict[str, SoundAttack] = {
    "as it is": lambda sound, rate, _: (sound, rate),
    "AAC 64 kb/s": lambda sound, rate, _: (aac(sound, rate, 64), rate),
    "AAC 32 kb/s": lambda sound, rate, _: (aac(sound, rate, 32), rate),
    "8 kHz": lambda sound, rate, _: (_at(sound, rate, 8000), 8000),
    "noise at 30 dB": _noisy,
    "cut by 10 %": _cut,
    "AAC at 44.1 kHz, 64 kb/s": lambda sound, rate, _: (aac(_at(sound, rate, 44_100), 44_100, 64), 44_100),
    "1 % faster": lambda sound, rate, _: (sound, round(1.01 * rate)),
}


def h264(pictures: np.ndarray, crf: int, preset: str = "medium") -> np.ndarray:
    """`pictures` (frames, height, width, 3) uint8, encoded and decoded again."""
    file = io.BytesIO()
    height, width = pictures.shape[1:3]
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": str(crf), "preset": preset})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode(None))
    file.seek(0)
    with av.open(file) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def aac(sound: np.ndarray, rate: int, kilobits: int) -> np.ndarray:
    """`sound` (1, samples), encoded and decoded again."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=rate, layout="mono")
        stream.bit_rate = kilobits * 1000
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound, np.float32), format="fltp", layout="mono")
        frame.sample_rate = rate
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    file.seek(0)
    with av.open(file) as container:
        return np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)


def noise_to_mask(sound: np.ndarray, noise: np.ndarray, rate: int) -> float:
    """Decibels of the mean ratio of noise to masked threshold over bands and frames.

    This is the total NMR of ITU-R BS.1387 with its mask offsets and the noise of the ear, in bands of a quarter Bark of
    43 ms, without the weighting and the time smearing of its ear model. Full scale is at 92 dB SPL.
    """
    length = 2 * round(0.0215 * rate)
    hertz = np.fft.rfftfreq(length, 1 / rate)
    bark = 7 * np.arcsinh(hertz / 650)
    _, band = np.unique((4 * bark).astype(int), return_inverse=True)
    member = (np.arange(band.max() + 1)[:, None] == band).astype(float).T
    middle, middle_hertz = (each @ (member / member.sum(0)) for each in (bark, hertz))
    distance = middle[:, None] - middle[None]
    spread = 10 ** (-np.where(distance >= 0, 10 * distance, -27 * distance) / 10)
    spread /= spread.sum(1, keepdims=True)
    offset = np.where(middle <= 12, 3.0, 0.25 * middle)

    def bands(samples: np.ndarray) -> np.ndarray:
        frames = np.lib.stride_tricks.sliding_window_view(samples, length)[:: length // 2]
        return np.abs(np.fft.rfft(frames * np.hanning(length))) ** 2 @ member

    full_scale = np.square(np.hanning(length)).sum() * length / 4  # the power of a sine of amplitude 1
    quiet = full_scale * 10 ** ((1.456 * np.maximum(middle_hertz, 50) ** -0.8 * 1000**0.8 - 92) / 10)
    mask = bands(sound) @ spread.T / 10 ** (offset / 10) + quiet
    return float(10 * np.log10((bands(noise) / mask).mean()))


def _in_pictures(pictures: np.ndarray) -> Finding:
    detector = PictureDetector(PUBLISHED_KEY)
    for number, picture in enumerate(pictures):
        detector.add(picture, number / FPS, (number + 1) / FPS)
    return detector.finish()


def _in_sound(sound: np.ndarray, rate: int) -> Finding:
    detector = SoundDetector(PUBLISHED_KEY)
    detector.add(_at(sound, rate, RATE)[0])
    return detector.finish()


def _synthetic(spec: ClipSpec, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """At least `count` pictures (frames, h, w, 3) uint8 and sounds (1, samples), of both data sets in
    turn."""
    sources = [data(spec, 22, "train") for data in (Bounce, Scenes)]
    for first in range(0, count, 16):
        for source in sources:
            yield from _batch(source, first, 16)


def _batch(data: Bounce | Scenes, first: int, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    made = data.batch(torch.arange(first, first + count))
    video = ((made["video"] + 1) * 127.5).round().byte().permute(0, 1, 3, 4, 2).numpy()
    yield from zip(video, made["audio"].numpy(), strict=True)


def rendered(
    data: type[Bounce] | type[Scenes], side: int, rate: int, at_once: int = 8
) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Endless clips: pictures, sound and sample rate."""
    source, first = data(ClipSpec(16, FPS, side, side, rate), 23, "train"), 0
    while True:
        for pictures, sound in _batch(source, first, at_once):
            yield pictures, sound, rate
        first += at_once


def _generated() -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Clips of the demo model, as it enlarges them."""
    pipeline, index = Pipeline.load(find_models(None)["demo"], "cpu"), 0
    while True:
        clip = pipeline.run(ClipRequest("generate", SamplingParams(seed=22, quality="fast"), index))
        assert clip.frames is not None
        assert clip.audio is not None
        yield clip.frames.numpy(), clip.audio.numpy(), clip.sample_rate
        index += 1


def _film(real: Path) -> np.ndarray:
    with av.open(str(real / "rabbit320.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack(frames)[::3]


def _music(real: Path, rate: int) -> np.ndarray:
    """(1, samples), mono."""
    with av.open(str(real / "viper.mp3")) as container:
        decoded = [frame.to_ndarray().mean(0, keepdims=True) for frame in container.decode(audio=0)]
    return _at(np.concatenate(decoded, axis=1), 44_100, rate)


def _resized(pictures: np.ndarray, side: int) -> np.ndarray:
    moved = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2)
    return F.interpolate(moved, (side, side), mode="bicubic", antialias=True).permute(0, 2, 3, 1).numpy()


def _real_pictures(real: Path, count: int) -> list[np.ndarray]:
    """Overlapping windows of 4 frames and of a part of the picture."""
    film, generator = _film(real), np.random.default_rng(0)
    windows = []
    for _ in range(count):
        first, top, left = (int(generator.integers(0, limit)) for limit in (len(film) - 4, 80, 160))
        windows.append(_resized(film[first : first + 4, top : top + 160, left : left + 160], 64))
    return windows


def _real_sounds(real: Path, count: int) -> list[np.ndarray]:
    music, length = _music(real, RATE), round(1.6 * RATE)
    starts = np.linspace(0, music.shape[1] - length, count).astype(int) if count else []
    return [music[:, start : start + length] for start in starts]


def _real_clips(real: Path, count: int) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    film, music, generator = _film(real), _music(real, 16_000), np.random.default_rng(1)
    for _ in range(count):
        first, top, left = (int(generator.integers(0, limit)) for limit in (len(film) - 16, 40, 120))
        start = int(generator.integers(16_000, music.shape[1] - 25_600))
        pictures = _resized(film[first : first + 16, top : top + 200, left : left + 200], 128)
        yield pictures, music[:, start : start + 25_600], 16_000


if __name__ == "__main__":
    main()
