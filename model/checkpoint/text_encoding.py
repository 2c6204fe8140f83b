"""What a manifest says of a model that takes prompts. Without torch, because the API reads it too."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeGuard

MAX_SCALE = 20.0
"""Of prompts."""


def is_scale(value: object) -> bool:
    """Whether `value` can be the scale of prompts."""
    return _is_number(value) and 0 <= value <= MAX_SCALE


def is_guided_share(value: object) -> bool:
    """Whether `value` can be the share of the noise in which prompts guide."""
    return _is_number(value) and 0 < value <= 1


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True)
class TextEncoding:
    """How a model reads prompts: the name of its `encoder`, the SHA-256 of the encoder's token vectors, the `languages`
    of its training captions (BCP 47), `examples` of prompts that it was trained to follow, and `scale`, the default of
    `prompt_scale`. The scale guides in the share `guided_share` of the noise, by log SNR from the noisiest time on; in
    the rest the prediction with the caption counts alone, for half of the work.

    Raises ValueError for a field that is empty or of another type.
    """

    encoder: str
    sha256: str
    languages: tuple[str, ...] = ("en",)
    examples: tuple[str, ...] = ()
    scale: float = 3.0
    guided_share: float = 1.0

    def __post_init__(self) -> None:
        for name in ("languages", "examples"):
            values = getattr(self, name)
            if not isinstance(values, tuple) or not all(isinstance(each, str) and each for each in values):
                raise ValueError(f"text.{name} must be a list of strings; got {values!r}")
        if not isinstance(self.encoder, str) or not self.encoder:
            raise ValueError(f"text.encoder must be a name; got {self.encoder!r}")
        if not isinstance(self.sha256, str) or re.fullmatch("[0-9a-f]+", self.sha256) is None:
            raise ValueError(f"text.sha256 must be hexadecimal; got {self.sha256!r}")
        if not is_scale(self.scale):
            raise ValueError(f"text.scale must be a number, 0 … {MAX_SCALE:g}; got {self.scale!r}")
        if not is_guided_share(self.guided_share):
            raise ValueError(f"text.guided_share must be a number above 0, at most 1; got {self.guided_share!r}")

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TextEncoding:
        """Raises ValueError or TypeError for what `to_json` does not write."""
        if not isinstance(data, dict):
            raise ValueError(f"text must be an object; got {data!r}")
        values: dict[str, Any] = {name: tuple(each) if isinstance(each, list) else each for name, each in data.items()}
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """Without `guided_share` where it is 1, so that older versions read it."""
        return {name: value for name, value in asdict(self).items() if name != "guided_share" or value != 1}
