"""A folder of videos as a data set. Frames and sound are prepared once, into two memory-mapped files; training reads
them and never decodes.

Preparation is the same as in the service (model/media/decode.py): letter-boxed frames at the model's rate, mono sound
at its sample rate. The cache is rebuilt when the files or the clip format change.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.media.decode import decode_audio, decode_video
from model.media.source import MediaError
from model.networks.config import ClipSpec
from model.runtime.threads import available_cores
from model.sampling.latents import Latents
from model.training.checkpoints import write_atomically
from model.training.configuration import DataConfig
from model.training.dataset import EVALUATION, DataError
from model.training.folder_check import check_file, count_windows, find_videos

SPAN = 64
"""Frames decoded per call, because the decoder's window is bounded."""
SOUND_SPAN = 600
"""Seconds of sound decoded per call."""


@dataclass(frozen=True)
class Prepared:
    """One video in the cache: offset and count of its frames and of its samples."""

    path: str
    first_frame: int
    frames: int
    first_sample: int
    samples: int


class FolderSource:
    """Windows of prepared videos, shuffled again in every epoch."""

    reads_disk = True

    def __init__(
        self, cache: Path, videos: Sequence[Prepared], clip: ClipSpec, modalities: Sequence[str], config: DataConfig
    ) -> None:
        self.clip, self.config, self.modalities = clip, config, tuple(modalities)
        starts = [
            (video, k * config.stride)
            for video in videos
            for k in range(count_windows(video.frames, clip, config.stride))
        ]
        self._video_at = np.array([video.first_frame + start for video, start in starts], dtype=np.int64)
        per_frame = clip.sample_rate / clip.fps
        self._sound_at = np.array([v.first_sample + round(start * per_frame) for v, start in starts], dtype=np.int64)
        shape = (-1, 3, clip.height, clip.width)
        self._pictures = np.memmap(cache / "video.u8", np.uint8, "r").reshape(shape)
        sounds = cache / "audio.i16"
        self._sounds = np.memmap(sounds, np.int16, "r") if "audio" in self.modalities else None
        self._orders: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self._video_at)

    def batch(self, indexes: Tensor, device: torch.device) -> Latents:
        windows, flips = self._windows_of(indexes)
        frames = np.arange(self.clip.frames)
        video = self._picture(self._video_at[windows][:, None] + frames, flips, device)
        if self._sounds is None:
            return Latents(video, None)
        samples = np.arange(self.clip.samples)
        sound = torch.from_numpy(self._sounds[self._sound_at[windows][:, None] + samples])
        return Latents(video, _to(sound[:, None], device).float() / 32768)

    def frames(self, indexes: Tensor, device: torch.device) -> Tensor:
        windows, flips = self._windows_of(indexes)
        # An arbitrary frame of the window, but always the same one for a sample index.
        inside = (indexes.numpy() * 2_654_435_761 >> 7) % self.clip.frames
        return self._picture(self._video_at[windows] + inside, flips, device)

    def captions(self, indexes: Tensor) -> list[str] | None:
        """A folder has no captions."""
        return None

    def _picture(self, at: np.ndarray, flips: np.ndarray, device: torch.device) -> Tensor:
        pictures = _to(torch.from_numpy(self._pictures[at]), device).float() / 127.5 - 1
        if not self.config.flip:
            return pictures
        mirrored = torch.from_numpy(flips).to(device).view(-1, *[1] * (pictures.ndim - 1))
        return torch.where(mirrored, pictures.flip(-1), pictures)

    def _windows_of(self, indexes: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Window and mirror flag of each sample index."""
        numbers = indexes.numpy()
        if numbers[0] >= EVALUATION:  # in order, not mirrored
            return (numbers - EVALUATION) % len(self), np.zeros(len(numbers), dtype=bool)
        epochs, places = np.divmod(numbers, len(self))
        orders = {int(epoch): self._order(int(epoch)) for epoch in np.unique(epochs)}
        drawn = np.array([orders[int(e)][p] for e, p in zip(epochs, places, strict=True)], dtype=np.int64)
        return drawn // 2, (drawn % 2).astype(bool)

    def _order(self, epoch: int) -> np.ndarray:
        """A permutation of the windows, each as 2 · window + (1 if it is mirrored)."""
        if epoch not in self._orders:
            random = np.random.default_rng((self.config.seed, epoch))
            order = 2 * random.permutation(len(self)) + random.integers(0, 2, len(self))
            self._orders = {**{k: v for k, v in self._orders.items() if k >= epoch - 1}, epoch: order}
        return self._orders[epoch]


def open_folder(
    config: DataConfig, clip: ClipSpec, modalities: Sequence[str], cache: Path, say: Callable[[str], None]
) -> tuple[FolderSource, FolderSource]:
    """Training and held-out data, from different files if there are several. Raises DataError."""
    folder = Path(config.folder)
    if not folder.is_dir():
        raise DataError(f"data.folder: there is no folder {folder}")
    videos = prepare_folder(folder, clip, modalities, cache, say)
    # Spread over the sorted list, since neighbours are often parts of one recording.
    kept = round(config.held_out * len(videos))
    kept = min(max(kept, 1 if config.held_out > 0 and len(videos) > 1 else 0), len(videos) - 1)
    order = np.random.default_rng(config.seed).permutation(len(videos))
    held_out = {int(k) for k in order[:kept]}
    training = [video for k, video in enumerate(videos) if k not in held_out]
    source = FolderSource(cache, training, clip, modalities, config)
    if not len(source):
        raise DataError(f"{folder} has no video to train on: `duet data check {folder}` says why")
    say(f"{len(training)} videos to train on, {len(source)} clips; {len(held_out)} held out")
    if not held_out:
        return source, source
    return source, FolderSource(cache, [videos[k] for k in sorted(held_out)], clip, modalities, config)


def prepare_folder(
    folder: Path, clip: ClipSpec, modalities: Sequence[str], cache: Path, say: Callable[[str], None]
) -> list[Prepared]:
    """Fill `cache` unless it already holds these files. Calls `say` for each file left out. Raises DataError."""
    paths = find_videos(folder)
    if not paths:
        raise DataError(f"{folder} has no videos")
    index = cache / "index.json"
    key = _key(paths, clip, modalities)
    if index.exists():
        known = json.loads(index.read_text(encoding="utf-8"))
        if known["key"] == key:
            return [Prepared(**video) for video in known["videos"]]
    say(f"preparing {len(paths)} videos in {cache}")
    cache.mkdir(parents=True, exist_ok=True)
    index.unlink(missing_ok=True)  # invalid until the index is written again
    videos: list[Prepared] = []
    left_out: list[dict[str, str]] = []
    frames = samples = 0
    with (
        open(cache / "video.u8", "wb") as pictures,
        open(cache / "audio.i16", "wb") as sounds,
        ThreadPoolExecutor(available_cores()) as pool,
    ):
        ahead = 2 * available_cores()
        for start in range(0, len(paths), ahead):  # decoded in parallel, written in order, never all in memory
            part = paths[start : start + ahead]
            for path, decoded in zip(part, pool.map(lambda p: _decode(p, clip, modalities), part), strict=True):
                if isinstance(decoded, str):
                    say(f"left out {path}: {decoded}")
                    left_out.append({"path": str(path), "problem": decoded})
                    continue
                video, audio = decoded
                pictures.write(video.tobytes())
                sounds.write(audio.tobytes())
                videos.append(Prepared(str(path), frames, len(video), samples, len(audio)))
                frames, samples = frames + len(video), samples + len(audio)
    if not videos:
        shutil.rmtree(cache)
        raise DataError(f"{folder}: none of its {len(paths)} videos can be trained on: `duet data check` says why")
    content = {"key": key, "videos": [asdict(video) for video in videos], "left_out": left_out}
    write_atomically(index, lambda file: file.write(json.dumps(content, indent=2).encode()))
    return videos


def _decode(path: Path, clip: ClipSpec, modalities: Sequence[str]) -> tuple[np.ndarray, np.ndarray] | str:
    """Frames (frames, 3, height, width) uint8 and samples (samples,) int16, or the reason to leave the file out."""
    found = check_file(path, clip, modalities)
    if found.problem is not None:
        return found.problem
    frames = found.windows + clip.frames - 1
    try:
        pictures = [
            decode_video(path, replace(clip, frames=min(SPAN, frames - start)), start / clip.fps)
            for start in range(0, frames, SPAN)
        ]
        video = ((torch.cat(pictures) + 1) * 127.5).round().to(torch.uint8).numpy()
        if "audio" not in modalities:
            return video, np.zeros(0, np.int16)
        span = SOUND_SPAN * clip.fps
        sounds = [
            decode_audio(path, replace(clip, frames=min(span, frames - start)), start / clip.fps)
            for start in range(0, frames, span)
        ]
    except MediaError as error:
        return str(error)
    audio = torch.cat(sounds, dim=1)[0]
    return video, (audio * 32768).round().clamp(-32768, 32767).to(torch.int16).numpy()


def _key(paths: Sequence[Path], clip: ClipSpec, modalities: Sequence[str]) -> str:
    """Hash of the files' names, sizes and times and of the clip format."""
    facts: list[Any] = [asdict(clip), list(modalities)]
    facts += [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _to(value: Tensor, device: torch.device) -> Tensor:
    return value.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else value
