"""Training configuration: one TOML file, read strictly, so that a misspelt setting is an error.

`docs/training.md` lists every setting with its default.
"""

from __future__ import annotations

import difflib
import json
import tomllib
import types
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from model.checkpoint.text_encoding import MAX_SCALE, is_guided_share, is_scale
from model.networks.config import PRESETS, ClipSpec, ConfigError, ModelConfig, ScheduleConfig, SRConfig, UNetConfig
from model.text import ENCODERS
from model.training.distillation_config import DistillationConfig


class ConfigurationError(ValueError):
    """A training configuration that cannot be used; the message names the setting."""


def _at_least(low: float, **values: float) -> None:
    for name, value in values.items():
        if value < low:
            raise ConfigurationError(f"{name} must be at least {low:g}; got {value:g}")


def _share(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ConfigurationError(f"{name} must be 0 … 1; got {value:g}")


@dataclass(frozen=True)
class DataConfig:
    """`source` "bounce" and "scenes" are procedural; with "scenes", a fraction `bounce_share` of the samples is from
    "bounce". "folder" uses every video under `folder`, in windows that start every `stride`
    frames at the model's rate. Prepared frames and sound are stored in `cache` (default: in the run's folder). `flip`
    mirrors half of the windows, chosen anew each epoch. `held_out` is the fraction of files reserved for evaluation.
    `seed` determines the order of the windows, or the procedural clips."""

    source: Literal["bounce", "scenes", "folder"] = "bounce"
    bounce_share: float = 0.0
    folder: str = ""
    cache: str = ""
    stride: int = 1
    flip: bool = False
    held_out: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        _at_least(1, **{"data.stride": self.stride})
        _share(**{"data.held_out": self.held_out, "data.bounce_share": self.bounce_share})
        if self.bounce_share and self.source != "scenes":
            raise ConfigurationError('data.bounce_share needs data.source = "scenes"')
        if (self.source == "folder") != bool(self.folder):
            raise ConfigurationError('data.folder and data.source = "folder" go together: give both or neither')


@dataclass(frozen=True)
class TextConfig:
    """Conditioning on captions, for data sets that have them. `encoder` "wordllama" sets base.text, and a fraction
    `drop` of the samples is trained without caption, for classifier-free guidance. `examples` of prompts, `scale`, the
    default of `prompt_scale`, and `guided_share`, the share of the noise in which it guides, are published with the
    model; without examples, captions of held-out samples are. Without a scale or a share, the published model keeps its
    own; those of a new one are 3.0 and 1."""

    encoder: Literal["none", "wordllama"] = "none"
    drop: float = 0.1
    examples: tuple[str, ...] = ()
    scale: float | None = None
    guided_share: float | None = None

    def __post_init__(self) -> None:
        _share(**{"text.drop": self.drop})
        if self.scale is not None and not is_scale(self.scale):
            raise ConfigurationError(f"text.scale must be a number, 0 … {MAX_SCALE:g}; got {self.scale!r}")
        if self.guided_share is not None and not is_guided_share(self.guided_share):
            raise ConfigurationError(
                f"text.guided_share must be a number above 0, at most 1; got {self.guided_share!r}"
            )


@dataclass(frozen=True)
class TimesConfig:
    """Noise times of the two modalities. Without `independent_timesteps` both have the same time, as in the paper. With
    it, a fraction `shared_t` of samples shares one time, `clean_video` has video without noise at t = 0 (as in clean
    conditioning), `clean_audio` likewise audio, and the rest draws both times independently.

    `density` "uniform" draws times uniformly, as in the paper. "log_snr" draws λ = log(α/σ) from a normal distribution
    with `log_snr_mean` and `log_snr_std` (as Karras et al., 2022, draw log σ), so that few samples are spent on almost
    pure noise or almost clean clips."""

    independent_timesteps: bool = False
    shared_t: float = 0.4
    clean_video: float = 0.15
    clean_audio: float = 0.15
    density: Literal["uniform", "log_snr"] = "uniform"
    log_snr_mean: float = -0.5
    log_snr_std: float = 1.8

    def __post_init__(self) -> None:
        shares = {name: getattr(self, name) for name in ("shared_t", "clean_video", "clean_audio")}
        _share(**{f"times.{name}": value for name, value in shares.items()})
        if sum(shares.values()) > 1 + 1e-9:
            raise ConfigurationError(
                f"times: the shares {', '.join(shares)} add up to {sum(shares.values()):g}, over 1"
            )
        if self.log_snr_std <= 0:
            raise ConfigurationError(f"times.log_snr_std must be above 0; got {self.log_snr_std:g}")


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with a linear warm-up over `warmup` steps, a constant rate, and a linear decay to 0 over the last `decay`
    steps. Gradients are clipped to the norm `clip_gradient` (0: off). `ema` is the rate of the averaged weights; with
    `ema_warmup` it is at most (1 + n) / (10 + n) after n steps, so that early weights fade quickly."""

    lr: float = 1e-4
    warmup: int = 500
    decay: int = 0
    betas: tuple[float, ...] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_gradient: float = 1.0
    ema: float = 0.9999
    ema_warmup: bool = False

    def __post_init__(self) -> None:
        _at_least(0, **{f"optimizer.{n}": getattr(self, n) for n in ("lr", "warmup", "decay", "weight_decay", "eps")})
        _at_least(0, **{"optimizer.clip_gradient": self.clip_gradient})
        _share(**{"optimizer.ema": self.ema})
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigurationError(f"optimizer.betas must be two numbers 0 … 1; got {list(self.betas)}")


@dataclass(frozen=True)
class DegradationConfig:
    """Degradation of super-resolution's inputs. Each with its probability: Gaussian noise with σ uniform in
    0 … `noise_sigma` (of 255 levels), and JPEG with a quality uniform in `jpeg_quality`. `downscale` "random" chooses
    bilinear or bicubic for each frame, both antialiased."""

    downscale: Literal["random", "bilinear", "bicubic", "area"] = "random"
    noise_probability: float = 0.5
    noise_sigma: float = 20.0
    jpeg_probability: float = 0.5
    jpeg_quality: tuple[int, ...] = (20, 80)

    def __post_init__(self) -> None:
        _share(
            **{
                "degradation.noise_probability": self.noise_probability,
                "degradation.jpeg_probability": self.jpeg_probability,
            }
        )
        _at_least(0, **{"degradation.noise_sigma": self.noise_sigma})
        if len(self.jpeg_quality) != 2 or not 1 <= self.jpeg_quality[0] <= self.jpeg_quality[1] <= 100:
            raise ConfigurationError(
                f"degradation.jpeg_quality must be two rising numbers 1 … 100; got {list(self.jpeg_quality)}"
            )


@dataclass(frozen=True)
class OutputConfig:
    """Intervals of outputs, in steps; 0 turns `samples` or `coupling` off. `losses`: flush losses.jsonl, which has one
    line per step. `checkpoint`: save the whole state; the last `keep` remain. `samples`: sample `sample_count` clips in
    `sample_steps` steps with the averaged weights. `coupling`: measure the coupling gap on `coupling_clips` clips.
    `calibration_clips`: number of clips to calibrate a published model on."""

    losses: int = 20
    checkpoint: int = 500
    keep: int = 2
    samples: int = 1000
    sample_count: int = 4
    sample_steps: int = 20
    coupling: int = 500
    coupling_clips: int = 64
    calibration_clips: int = 64
    tensorboard: bool = True

    def __post_init__(self) -> None:
        _at_least(1, **{"output.losses": self.losses, "output.keep": self.keep, "output.checkpoint": self.checkpoint})
        rest = ("samples", "coupling", "calibration_clips")
        _at_least(0, **{f"output.{name}": getattr(self, name) for name in rest})
        _at_least(1, **{"output.sample_count": self.sample_count, "output.sample_steps": self.sample_steps})
        _at_least(2, **{"output.coupling_clips": self.coupling_clips})


@dataclass(frozen=True)
class TrainingConfig:
    """`kind` "base" trains the coupled network, "sr" super-resolution. `name` is the model's name in requests. `preset`
    selects the architecture; the tables [clip], [base], [sr] and [schedule] change its fields, named as in
    model/networks/config.py. `batch` is the number of samples per step over all GPUs (frames for "sr"), split into
    `accumulate` parts on each. `precision` of convolutions and attention is "float32", "bfloat16", or "auto", bfloat16
    on a GPU; norms, time embedding, weights and updates stay float32."""

    kind: Literal["base", "sr"] = "base"
    name: str = "model"
    description: str = ""
    licence: str = "not stated"
    preset: str = "paper"
    seed: int = 0
    steps: int = 100_000
    batch: int = 32
    accumulate: int = 1
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    text: TextConfig = field(default_factory=TextConfig)
    times: TimesConfig = field(default_factory=TimesConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    degradation: DegradationConfig = field(default_factory=DegradationConfig)
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    output: OutputConfig = field(default_factory=OutputConfig)

    def __post_init__(self) -> None:
        _at_least(1, steps=self.steps, batch=self.batch, accumulate=self.accumulate)
        _at_least(0, seed=self.seed)
        if self.batch % self.accumulate:
            raise ConfigurationError(f"batch must be divisible by accumulate; got {self.batch} and {self.accumulate}")
        if self.kind == "sr" and self.model.sr is None:
            raise ConfigurationError('kind = "sr" needs a super-resolution network, which this preset lacks')
        if self.times.independent_timesteps and not self.model.base.coupled:
            raise ConfigurationError("times.independent_timesteps needs two modalities")
        if self.kind == "base" and self.model.base.text != ENCODERS.get(self.text.encoder):
            raise ConfigurationError(
                f"base.text must be {ENCODERS.get(self.text.encoder)}, the channels of text.encoder "
                f"{self.text.encoder!r}; got {self.model.base.text}"
            )
        if self.distillation.teacher and (self.kind == "sr" or self.text.encoder != "none"):
            raise ConfigurationError("distillation.teacher is for base networks without text")
        if self.text.encoder != "none" and self.data.source == "folder":
            raise ConfigurationError('text.encoder needs captions, which data.source = "folder" does not have')

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"


MAY_CHANGE = (
    "steps",
    "accumulate",
    "description",
    "licence",
    "name",
    "preset",
    "output.",
    "data.cache",
    "text.examples",
    "text.scale",
    "text.guided_share",
)
"""Settings that may change when a run is resumed, because they do not affect the weights so far."""

_TABLES = {
    "data": DataConfig,
    "text": TextConfig,
    "times": TimesConfig,
    "optimizer": OptimizerConfig,
    "degradation": DegradationConfig,
    "distillation": DistillationConfig,
    "output": OutputConfig,
}
_REMOVED = {"compile": "compile is no longer a setting: on a GPU, steps are replayed as a CUDA graph; delete it"}
"""Settings of earlier versions, with the message for a file that still has them. Records of runs may have them."""

_MODEL_TABLES: dict[str, type] = {"clip": ClipSpec, "base": UNetConfig, "sr": SRConfig, "schedule": ScheduleConfig}


def read_configuration(path: Path, overrides: Sequence[str] = ()) -> TrainingConfig:
    """Read a TOML file and apply `overrides` such as "optimizer.lr=1e-4". Raises ConfigurationError."""
    try:
        with open(path, "rb") as file:
            data = tomllib.load(file)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not TOML: {error}") from error
    for override in overrides:
        _override(data, override)
    try:
        return build_configuration(data)
    except (ConfigurationError, ConfigError) as error:
        raise ConfigurationError(f"{path}: {error}") from error


def build_configuration(data: Mapping[str, Any]) -> TrainingConfig:
    """A configuration from the tables of a TOML file. Raises ConfigurationError and ConfigError."""
    data = dict(data)
    for name in _REMOVED.keys() & data.keys():
        raise ConfigurationError(_REMOVED[name])
    preset = data.get("preset", "paper")
    if preset not in PRESETS:
        raise ConfigurationError(f"preset must be one of {', '.join(PRESETS)}; got {preset!r}")
    parts: dict[str, Any] = {}
    for name, cls in _MODEL_TABLES.items():
        parts[name] = getattr(PRESETS[preset], name)
        if name in data:
            kept = asdict(parts[name]) if parts[name] is not None else {}
            parts[name] = _build(cls, _table(data, name), name, kept)
    if parts["sr"] is not None and data.get("kind", "base") == "base" and "sr" not in data:
        parts["sr"] = None
    built = {name: _build(cls, _table(data, name), name) for name, cls in _TABLES.items() if name in data}
    if "text" in built and parts["base"].text is None:
        parts["base"] = replace(parts["base"], text=ENCODERS.get(built["text"].encoder))
    plain = {f.name for f in fields(TrainingConfig)} - {"model", *_TABLES}
    _refuse_unknown(data, sorted(plain | set(_TABLES) | set(_MODEL_TABLES)), "")
    top = _checked(TrainingConfig, {key: value for key, value in data.items() if key in plain}, "")
    return TrainingConfig(**top, model=ModelConfig(**parts), **built)


def configuration_from_json(text: str) -> TrainingConfig:
    """Parse the output of `to_json`. Raises ConfigurationError."""
    data = {name: value for name, value in json.loads(text).items() if name not in _REMOVED}
    model = data.pop("model")
    sr = model.pop("sr")
    parts = {name: _build(_MODEL_TABLES[name], table, name) for name, table in model.items()}
    parts["sr"] = None if sr is None else _build(SRConfig, sr, "sr")
    # Files written before there was a table do not have it.
    tables = {name: _build(cls, data.pop(name, {}), name) for name, cls in _TABLES.items()}
    return TrainingConfig(**data, model=ModelConfig(**parts), **tables)


def differences(before: TrainingConfig, now: TrainingConfig, ignore: Sequence[str] = MAY_CHANGE) -> list[str]:
    """Settings that differ, one message each: "base.channels was 32 and is 64"."""
    old, new = (flatten(json.loads(config.to_json())) for config in (before, now))
    return [
        f"{key} was {old.get(key)!r} and is {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not key.startswith(tuple(ignore))
    ]


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one, with dotted names."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        name = f"{prefix}{key}".removeprefix("model.")
        flat.update(flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {name: value})
    return flat


def _override(data: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    if not equals:
        raise ConfigurationError(f"--set needs KEY=VALUE, such as optimizer.lr=1e-4; got {override!r}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word is a string: --set data.source=folder
    *tables, key = name.strip().split(".")
    for table in tables:
        data = data.setdefault(table, {})
        if not isinstance(data, dict):
            raise ConfigurationError(f"--set {override}: {table} is not a table")
    data[key] = value


def _table(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    if not isinstance(data[name], Mapping):
        raise ConfigurationError(f"{name} must be a table, [{name}]; got {data[name]!r}")
    return data[name]


def _refuse_unknown(values: Mapping[str, Any], known: Sequence[str], table: str) -> None:
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"; did you mean {table}{near[0]}?" if near else f"; there are {', '.join(known)}"
            raise ConfigurationError(f"there is no setting {table}{key}{hint}")


def _build(cls: type, values: Mapping[str, Any], table: str, kept: Mapping[str, Any] | None = None) -> Any:
    checked = _checked(cls, values, f"{table}.")
    try:
        return cls(**{**(kept or {}), **checked})
    except ConfigError as error:
        raise ConfigurationError(f"{table}: {error}") from error


def _checked(cls: type, values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """`values` with the types of the fields of `cls`. Raises ConfigurationError."""
    hints = get_type_hints(cls)
    _refuse_unknown(values, [f.name for f in fields(cls)], prefix)
    return {key: _typed(value, hints[key], f"{prefix}{key}") for key, value in values.items()}


def _typed(value: Any, kind: Any, name: str) -> Any:
    """`value` converted to the field type `kind`. Raises ConfigurationError."""
    origin = get_origin(kind)
    if origin is Literal:
        if value not in get_args(kind):
            raise ConfigurationError(f"{name} must be one of {', '.join(map(str, get_args(kind)))}; got {value!r}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigurationError(f"{name} must be a list; got {value!r}")
        return tuple(_typed(item, get_args(kind)[0], name) for item in value)
    if origin in (Union, types.UnionType):
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        words = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}
        raise ConfigurationError(f"{name} must be {words.get(kind, kind)}; got {value!r}")
    return value
