"""A stand-in for the modules of ComfyUI that the nodes import. ComfyUI is an application, which tests cannot install.

It has their names, arguments and results: `comfy.utils.ProgressBar`, `comfy.model_management`, `folder_paths`, the
VIDEO types of `comfy_api`, and the way in which ComfyUI loads a folder of `custom_nodes`.
"""

from __future__ import annotations

import importlib.util
import io
import sys
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import numpy as np
import pytest
import torch

NODES = Path(__file__).parents[3] / "integrations" / "comfyui"


class InterruptProcessingException(Exception):
    """Raised in nodes when the user interrupts the queue."""


@dataclass
class ComfyUI:
    """State of the stand-in: progress as the server would send it to the page, and the user's interruption.

    `interrupt_at`: the number of updates after which the user interrupts; None for never. `interrupt_at_preview`: the
    user interrupts at the first preview.
    """

    temporary: Path
    updates: list[tuple[float, float, Any]] = field(default_factory=list)
    interrupt_at: int | None = None
    interrupt_at_preview: bool = False

    def throw_exception_if_processing_interrupted(self) -> None:
        seen = self.interrupt_at_preview and any(preview is not None for _, _, preview in self.updates)
        if seen or (self.interrupt_at is not None and len(self.updates) >= self.interrupt_at):
            raise InterruptProcessingException


@dataclass
class VideoComponents:
    images: torch.Tensor
    frame_rate: Fraction
    audio: dict[str, Any] | None = None


class VideoFromFile:
    """A VIDEO of a file or of bytes; `start_time` is that of a trimmed one."""

    def __init__(self, file: str | io.BytesIO, *, start_time: float = 0) -> None:
        self._file = file
        self._start_time = start_time

    def get_stream_source(self) -> str | io.BytesIO:
        return self._file

    def get_active_trim_window(self) -> tuple[float, float]:
        return self._start_time, 0.0

    def get_components(self) -> VideoComponents:
        with av.open(self._file) as container:
            rate = Fraction(container.streams.video[0].average_rate or 1)
            frames = [
                torch.from_numpy(frame.to_ndarray(format="rgb24")) / 255
                for frame in container.decode(video=0)
                if (frame.time or 0) >= self._start_time
            ]
        return VideoComponents(torch.stack(frames), rate)

    def save_to(self, path: str | io.BytesIO) -> None:
        VideoFromComponents(self.get_components()).save_to(path)


class VideoFromComponents:
    """A VIDEO of frames; its sound is left out."""

    def __init__(self, components: VideoComponents) -> None:
        self._components = components

    def get_stream_source(self) -> io.BytesIO:
        file = io.BytesIO()
        self.save_to(file)
        file.seek(0)
        return file

    def get_components(self) -> VideoComponents:
        return self._components

    def save_to(self, path: str | io.BytesIO) -> None:
        images = self._components.images
        with av.open(path, "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=self._components.frame_rate)
            stream.height, stream.width, stream.pix_fmt = images.shape[1], images.shape[2], "yuv420p"
            for image in images:
                frame = np.ascontiguousarray((image * 255).to(torch.uint8).numpy())
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode(None))


def install(monkeypatch: pytest.MonkeyPatch, temporary: Path) -> ComfyUI:
    """Add the modules to sys.modules for one test."""
    comfy_ui = ComfyUI(temporary)

    class ProgressBar:
        def __init__(self, total: int) -> None:
            self.total = total

        def update_absolute(self, value: float, total: float | None = None, preview: Any = None) -> None:
            comfy_ui.updates.append((value, total or self.total, preview))

    modules: dict[str, dict[str, Any]] = {
        "comfy": {},
        "comfy.utils": {"ProgressBar": ProgressBar},
        "comfy.model_management": {
            "InterruptProcessingException": InterruptProcessingException,
            "throw_exception_if_processing_interrupted": comfy_ui.throw_exception_if_processing_interrupted,
        },
        "comfy_api": {},
        "comfy_api.input_impl": {"VideoFromFile": VideoFromFile, "VideoFromComponents": VideoFromComponents},
        "comfy_api.util": {"VideoComponents": VideoComponents},
        "folder_paths": {"get_temp_directory": lambda: str(temporary)},
    }
    for name, members in modules.items():
        module = ModuleType(name)
        module.__dict__.update(members)
        monkeypatch.setitem(sys.modules, name, module)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
    return comfy_ui


def load_custom_node(monkeypatch: pytest.MonkeyPatch, folder: Path = NODES) -> ModuleType:
    """Import a folder as ComfyUI does: by its path, under a name made of it."""
    name = str(folder).replace(".", "_x_")
    for earlier in [each for each in sys.modules if each.startswith(f"{name}.")]:
        del sys.modules[earlier]  # it has the stand-in of an earlier test
    spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module
