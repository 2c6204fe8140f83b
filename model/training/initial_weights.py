"""Fine-tuning: start a run from existing weights."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from model.checkpoint.loading import CheckpointError, load_network, load_published, read_published
from model.checkpoint.manifest import FILE_NAME, read_manifest
from model.networks.config import SRConfig, UNetConfig
from model.training.checkpoints import read_checkpoint
from model.training.configuration import TrainingConfig, configuration_from_json, flatten

PUBLISHED_NORM_GROUPS = 32


def load_initial(path: Path, network: nn.Module, config: TrainingConfig) -> None:
    """Copy weights into `network`: from a model folder, one of its safetensors files, a training checkpoint (its
    averaged weights), or a published .pt file. Weights without text fit a network with text: its text conditioning then
    keeps its own weights, which change nothing at first.

    Raises CheckpointError, listing every difference, if they belong to another network; ManifestError; StateError.
    """
    part = "sr" if config.kind == "sr" else "base"
    wanted = asdict(getattr(config.model, part))
    if path.is_dir():
        manifest = read_manifest(path / FILE_NAME)
        held = getattr(manifest.config, part)
        file = manifest.sr_weights if part == "sr" else manifest.base_weights
        if held is None or file is None:
            raise CheckpointError(f"{path} has no {part} weights to start from")
        _refuse_other(path, asdict(held), wanted, part)
        load_network(network, path / file, _without_text(held))
    elif path.suffix == ".safetensors":
        beside = path.parent / FILE_NAME
        held = getattr(read_manifest(beside).config, part) if beside.exists() else None
        if held is not None:
            _refuse_other(path, asdict(held), wanted, part)
        load_network(network, path, held is not None and _without_text(held))
    elif path.parent.name == "checkpoints" and path.name.startswith("step-"):
        content = read_checkpoint(path)
        recorded = configuration_from_json(content["config"])
        if recorded.kind != config.kind:
            raise CheckpointError(f"{path} belongs to a run of kind {recorded.kind!r}, not {config.kind!r}")
        held = getattr(recorded.model, part)
        _refuse_other(path, asdict(held), wanted, part)
        network.load_state_dict(content["average"], strict=not _without_text(held))
    else:
        # The shapes of the weights do not show the number of groups.
        if wanted["norm_groups"] != PUBLISHED_NORM_GROUPS:
            raise CheckpointError(
                f"{path} belongs to another network:\n  {part}.norm_groups was {PUBLISHED_NORM_GROUPS} and is "
                f"{wanted['norm_groups']}"
            )
        load_published(network, read_published(path), without_text=True)


def _without_text(held: UNetConfig | SRConfig) -> bool:
    """Whether weights of a network `held` have no text conditioning."""
    return getattr(held, "text", None) is None


def load_fitting(path: Path, network: nn.Module) -> tuple[int, int]:
    """Copy the tensors of a safetensors file whose names and shapes `network` has; its other tensors stay as they are.
    Returns how many were copied, and how many `network` has. Raises CheckpointError if none fits."""
    try:
        held = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    own = network.state_dict()
    fitting = {name: value for name, value in held.items() if name in own and value.shape == own[name].shape}
    if not fitting:
        raise CheckpointError(f"{path} has no tensor of this network's names and shapes")
    network.load_state_dict(fitting, strict=False)
    return len(fitting), len(own)


def _refuse_other(path: Path, held: dict[str, object], wanted: dict[str, object], part: str) -> None:
    """Raise CheckpointError if the networks differ. Dropout and the prediction type may differ: dropout has no weights,
    and the last layer learns another prediction within hundreds of steps. Text may be added."""
    before, now = flatten(held), flatten(wanted)
    may_differ = {"dropout", "prediction"}
    if before.get("text") is None:
        may_differ |= {"text", "text_attention_scales"}
    found = [
        f"{part}.{key} was {list(value) if isinstance(value, tuple) else value!r} and is "
        f"{list(now[key]) if isinstance(now[key], tuple) else now[key]!r}"
        for key, value in before.items()
        if key not in may_differ and value != now[key]
    ]
    if found:
        raise CheckpointError(f"{path} belongs to another network:\n  " + "\n  ".join(found))
