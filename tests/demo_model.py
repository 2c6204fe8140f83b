"""The demo model that ships with Duet, as its manifest describes it, for tests of clips that it makes."""

from __future__ import annotations

from model.checkpoint.manifest import find_models

DEMO = find_models()["demo"]
CLIP = DEMO.config.clip

SMALL = (CLIP.width, CLIP.height)
"""Width and height of its frames in pixels."""

LARGE = DEMO.config.output_size[::-1]
"""The same after super-resolution."""

SMALL_SIZE, LARGE_SIZE = (f"{width}x{height}" for width, height in (SMALL, LARGE))
"""Both as the `size` of a request to /v1/videos."""
