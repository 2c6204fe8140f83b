"""`model.json`, the manifest of a model: everything that a server or client needs without opening the weights."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from model.checkpoint.text_encoding import TextEncoding
from model.networks.config import ClipSpec, ConfigError, ModelConfig, ScheduleConfig, SRConfig, UNetConfig
from model.sampling.tuned_solver import TunedSolvers

FILE_NAME = "model.json"
BUILTIN = Path(__file__).parents[1] / "weights"
"""Models that ship with Duet, one folder each."""


class ManifestError(ValueError):
    """A manifest that cannot be read; the message names the file and the field."""


@dataclass(frozen=True)
class Manifest:
    """One model on disk. `folder` holds the files that `base_weights` and `sr_weights` name.

    A model without weight files is untrained; its weights are drawn from `init_seed`. `independent_timesteps`: trained
    with a separate time for each modality. `mirrored`: trained on clips flipped left to right, as the published models
    are; frames are flipped on input and output. `sources` are the SHA-256 of the files it was converted from,
    `calibration` the result of model.runtime.calibration, `tuned` that of model.tuning. `text`: how it takes prompts;
    None if it knows no words.
    """

    name: str
    config: ModelConfig
    trained: bool
    description: str
    licence: str
    base_weights: str | None = None
    sr_weights: str | None = None
    init_seed: int = 0
    independent_timesteps: bool = False
    mirrored: bool = False
    sources: dict[str, str] = field(default_factory=dict)
    calibration: dict[str, list[float]] = field(default_factory=dict)
    tuned: TunedSolvers | None = None
    text: TextEncoding | None = None
    folder: Path = BUILTIN

    @property
    def weight_files(self) -> tuple[Path, ...]:
        """The weight files; none if the model is untrained."""
        return tuple(self.folder / name for name in (self.base_weights, self.sr_weights) if name is not None)

    @cached_property
    def weights_hash(self) -> str:
        """SHA-256 of the weight files as they were when this was first asked, or of seed and configuration if there are
        none."""
        digest = hashlib.sha256()
        for path in self.weight_files:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        if self.base_weights is None:
            drawn = {"init_seed": self.init_seed, **_described(self.config)}
            digest.update(json.dumps(drawn, sort_keys=True).encode())
        return digest.hexdigest()

    def network_hash(self, part: Literal["base", "sr"]) -> str:
        """SHA-256 of one network's weight file, or of seed and configuration if there is none."""
        name = self.base_weights if part == "base" else self.sr_weights
        if name is not None:
            with open(self.folder / name, "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        drawn = {"init_seed": self.init_seed, part: _described(self.config)[part]}
        return hashlib.sha256(json.dumps(drawn, sort_keys=True).encode()).hexdigest()

    def check_tuned(self) -> None:
        """Raise ManifestError if the tuned solvers are those of other weights."""
        if self.tuned is None:
            return
        wrong = self.tuned.base_hash != self.network_hash("base")
        if self.tuned.sr and self.config.sr is not None:
            wrong |= self.tuned.sr_hash != self.network_hash("sr")
        if wrong:
            raise ManifestError(
                f"{self.folder / FILE_NAME}: tuned holds solvers for other weights than those in the folder; "
                f"run duet tune {self.folder} to find new ones, or delete tuned from the file"
            )

    def with_calibration(self, curve: dict[str, list[float]]) -> Manifest:
        """The manifest with another calibration, without the solvers tuned for ΠGDM under the earlier one."""
        tuned = self.tuned
        if tuned is not None:
            kept = {name: found for name, found in tuned.base.items() if not name.endswith(" pigdm")}
            tuned = replace(tuned, base=kept)
        return replace(self, calibration=curve, tuned=tuned)

    def write(self, folder: Path) -> None:
        """Replace the manifest in `folder`; readers see the earlier file or the new one, whole."""
        written = folder / f"{FILE_NAME}.new"
        written.write_text(self.to_json(), encoding="utf-8")
        written.replace(folder / FILE_NAME)

    def to_json(self) -> str:
        data = {key: value for key, value in asdict(self).items() if key not in ("folder", "tuned", "text")}
        data["config"] = _described(self.config)
        if self.tuned is not None:
            data["tuned"] = self.tuned.to_json()
        if self.text is not None:
            data["text"] = self.text.to_json()
        return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def read_manifest(path: Path) -> Manifest:
    """Read `model.json`. Raises ManifestError naming the file and what is wrong with it."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            raise ManifestError("a manifest must be a JSON object")
        config = data.pop("config")
        unknown = set(data) - {f.name for f in fields(Manifest)}
        if unknown:
            raise ManifestError(f"unknown fields: {', '.join(sorted(unknown))}")
        tuned, text = data.pop("tuned", None), data.pop("text", None)
        solvers = TunedSolvers.from_json(tuned) if tuned is not None else None
        words = TextEncoding.from_json(text) if text is not None else None
        return Manifest(config=_model_config(config), folder=path.parent, tuned=solvers, text=words, **data)
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror}") from error
    except KeyError as error:
        raise ManifestError(f"{path}: the field {error} is missing") from error
    except (ValueError, TypeError, AttributeError, ConfigError) as error:
        raise ManifestError(f"{path}: {error}") from error


def find_models(folder: Path | None = None) -> dict[str, Manifest]:
    """All models in `folder` and the built-in ones, by name; a model in `folder` replaces a built-in of the same name.

    Raises ManifestError if one cannot be read, or if two in the folder have the same name.
    """
    found = {m.name: m for m in (read_manifest(path) for path in sorted(BUILTIN.glob(f"*/{FILE_NAME}")))}
    own: dict[str, Manifest] = {}
    for path in sorted(folder.glob(f"*/{FILE_NAME}")) if folder else ():
        manifest = read_manifest(path)
        if manifest.name in own:
            raise ManifestError(
                f"{path}: the name {manifest.name!r} is taken by {own[manifest.name].folder / FILE_NAME}"
            )
        own[manifest.name] = manifest
    return {**own, **{name: manifest for name, manifest in found.items() if name not in own}}


def _described(config: ModelConfig) -> dict[str, Any]:
    """As JSON objects. A network without text is described as before there was text, and its hash is the same."""
    described = asdict(config)
    if config.base.text is None:
        del described["base"]["text"], described["base"]["text_attention_scales"]
    return described


def _model_config(data: dict[str, Any]) -> ModelConfig:
    def build(cls: type, values: dict[str, Any]) -> Any:
        if not isinstance(values, dict):
            raise ConfigError(f"the configuration of {cls.__name__} must be an object; got {values!r}")
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})

    if not isinstance(data, dict):
        raise ConfigError(f"config must be an object; got {data!r}")
    sr = data.get("sr")
    return ModelConfig(
        clip=build(ClipSpec, data["clip"]),
        base=build(UNetConfig, data["base"]),
        sr=build(SRConfig, sr) if sr is not None else None,
        schedule=build(ScheduleConfig, data.get("schedule", {})),
    )
