"""Logs of a training run: losses.jsonl with one line per step, coupling.jsonl, and TensorBoard."""

from __future__ import annotations

import importlib.util
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from model.runtime.pipeline import Clip
from model.training.checkpoints import write_atomically

LOSSES = "losses.jsonl"
COUPLING = "coupling.jsonl"


class TrainingLog:
    """Writes into the folder `out`. Lines after `step` are removed, because a resumed run repeats those steps."""

    def __init__(self, out: Path, step: int, tensorboard: bool) -> None:
        self.out = out
        out.mkdir(parents=True, exist_ok=True)
        for name in (LOSSES, COUPLING):
            _truncate(out / name, step)
        self._board: Any = None
        if tensorboard and importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(out / "tensorboard"), purge_step=step)

    def losses(self, rows: list[dict[str, float]]) -> None:
        """Append one line per step; `step` holds its number."""
        self._append(LOSSES, rows)
        if self._board is not None:
            for row in rows:
                for name, value in row.items():
                    if name != "step":
                        self._board.add_scalar(f"train/{name}", value, int(row["step"]))

    def coupling(self, step: int, gaps: Mapping[str, float]) -> None:
        """The coupling gap of each modality, after `step` steps."""
        self._append(COUPLING, [{"step": step, **gaps}])
        self.scalars(step, {f"coupling/{name}": value for name, value in gaps.items()})

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def clip(self, step: int, name: str, made: Clip) -> None:
        """Log a clip as an animation and a sound."""
        if self._board is None:
            return
        if made.frames is not None:
            self._animation(step, name, made.frames.numpy(), made.fps)
        if made.audio is not None:
            self._board.add_audio(f"{name}/sound", made.audio, step, made.sample_rate)

    def picture(self, step: int, name: str, frames: np.ndarray) -> None:
        """(height, width, 3) uint8."""
        if self._board is not None:
            self._board.add_image(name, frames, step, dataformats="HWC")

    def flush(self) -> None:
        if self._board is not None:
            self._board.flush()

    def close(self) -> None:
        if self._board is not None:
            self._board.close()

    def _append(self, name: str, rows: list[Any]) -> None:
        with open(self.out / name, "a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)

    def _animation(self, step: int, name: str, frames: np.ndarray, fps: int) -> None:
        # SummaryWriter.add_video needs moviepy; Pillow can write the same animated GIF into an image summary.
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

        pictures = [Image.fromarray(frame) for frame in frames]
        file = io.BytesIO()
        pictures[0].save(
            file, format="GIF", save_all=True, append_images=pictures[1:], duration=math.ceil(1000 / fps), loop=0
        )
        height, width = frames.shape[1:3]
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=file.getvalue())
        summary = Summary(value=[Summary.Value(tag=f"{name}/video", image=image)])
        self._board.file_writer.add_summary(summary, step)


def read_rows(path: Path) -> list[dict[str, float]]:
    """The complete lines of a log; an unfinished last line of a killed run is skipped."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _truncate(path: Path, step: int) -> None:
    if path.exists():
        kept = "".join(json.dumps(row) + "\n" for row in read_rows(path) if row["step"] <= step)
        write_atomically(path, lambda file: file.write(kept.encode()))
