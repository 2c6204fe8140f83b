"""Single forward passes of both networks, their state dicts, and the statistics of every block on the way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from model.checkpoint.loading import build, load_base, load_sr, published_layout, seeded_weights, to_published
from model.networks.config import MODALITIES, PRESETS, SRConfig, UNetConfig
from model.networks.coupled_unet import CoupledUNet
from model.networks.layers import timestep_embedding
from model.networks.pair import Pair
from model.networks.super_resolution import SRUNet
from model.verify.folder import FolderError, GoldenSet
from model.verify.report import Case, Check, compare, provides

STATE_DICTS = {"statedict_base": (CoupledUNet, PRESETS["paper"].base), "statedict_sr": (SRUNet, PRESETS["paper"].sr)}
PUBLISHED_MULT = {64: (1, 2, 3, 4), 256: (1, 1, 2, 2, 4, 4)}
"""Channel multipliers that the published code takes for frames of this height where none are given."""


def base_config(golden: GoldenSet) -> UNetConfig:
    """The coupled network of a set, from the flags of the published scripts in its json."""
    flags = golden.value("config")
    return UNetConfig(
        channels=flags["num_channels"],
        channel_mult=_numbers(flags["channel_mult"]) or _published_mult(golden, flags["video_size"][2]),
        res_blocks=flags["num_res_blocks"],
        heads=flags["num_heads"],
        head_channels=flags["num_head_channels"],
        cross_attention_scales=_numbers(flags["cross_attention_resolutions"]),
        windows=_numbers(flags["cross_attention_windows"]),
        window_shift=flags["cross_attention_shift"],
        video_attention_scales=_numbers(flags["video_attention_resolutions"]),
        audio_attention_scales=_numbers(flags["audio_attention_resolutions"]),
        scale_shift_norm=flags["use_scale_shift_norm"],
        dropout=flags["dropout"],
    )


def sr_config(golden: GoldenSet) -> SRConfig:
    """The super-resolution network of a set, from script flags or from the arguments of the published class."""
    flags = golden.value("config")
    if "large_size" in flags:
        return SRConfig(
            factor=flags["large_size"] // flags["small_size"],
            channels=flags["sr_num_channels"],
            channel_mult=_published_mult(golden, flags["large_size"]),
            res_blocks=flags["sr_num_res_blocks"],
            heads=flags["sr_num_heads"],
            attention_scales=_numbers(flags["sr_attention_resolutions"]),
            learn_sigma=flags["sr_learn_sigma"],
            scale_shift_norm=flags["sr_use_scale_shift_norm"],
        )
    return SRConfig(
        factor=flags["image_size"] // (flags.get("small_size") or golden["in/low_res"].shape[-1]),
        channels=flags["model_channels"],
        channel_mult=tuple(flags["channel_mult"]),
        res_blocks=flags["num_res_blocks"],
        heads=flags["num_heads"],
        attention_scales=tuple(flags["attention_resolutions"]),
        learn_sigma=flags["out_channels"] == 6,
        scale_shift_norm=flags["use_scale_shift_norm"],
    )


def base_network(golden: GoldenSet, device: torch.device) -> CoupledUNet:
    """The coupled network of a set with its weights, stored or drawn."""
    config = base_config(golden)
    if golden.weights:
        return load_base(golden.weights, config).to(device)
    return _seeded(build(CoupledUNet, config), golden, device)


def sr_network(golden: GoldenSet, device: torch.device) -> SRUNet:
    """The super-resolution network of a set with its weights, stored or drawn."""
    config = sr_config(golden)
    if golden.weights:
        return load_sr(golden.weights, config).to(device)
    return _seeded(build(SRUNet, config), golden, device)


def shifts_of(shifts: Sequence[int] | Sequence[Sequence[int]], batch: int) -> Tensor:
    """Recorded window shifts as (batch, blocks): one list for the whole batch, or one a sample."""
    tensor = torch.tensor(shifts, dtype=torch.long)
    return tensor.expand(batch, -1) if tensor.dim() == 1 else tensor


@provides("state_dict")
def state_dict_cases(golden: GoldenSet, device: torch.device) -> Iterator[Case]:
    if golden.name in STATE_DICTS:
        yield Case(golden.name, golden.expectations, partial(_check_state_dict, golden))


def _check_state_dict(golden: GoldenSet) -> Iterator[Check]:
    kind, config = STATE_DICTS[golden.name]
    with torch.device("meta"):
        yield check_layout(golden, {name: shape for name, (_, shape) in published_layout(kind(config)).items()})


def check_layout(golden: GoldenSet, actual: Mapping[str, tuple[int, ...]]) -> Check:
    """Whether the tensors of a network have the names and shapes that the set lists."""
    expected = {name: tuple(shape) for name, shape, _ in golden.value("tensors")}
    wrong = sorted(name for name in expected.keys() | actual.keys() if expected.get(name) != actual.get(name))
    note = f"{len(expected)} tensors" if not wrong else f"{len(wrong)} differ: {', '.join(wrong[:8])}"
    return Check(golden.name, float(len(wrong)), 0.0, not wrong, note=note)


@provides("coupled_unet_forward")
def coupled_forward_cases(golden: GoldenSet, device: torch.device) -> Iterator[Case]:
    yield Case(
        f"{golden.name}/time", ("mid/timestep_embedding", "mid/time_embed_out"), partial(_check_time, golden, device)
    )
    if "weights_check" in golden.meta:
        yield Case(f"{golden.name}/weights", (), partial(_check_weights, golden))
    for run in golden.value("runs"):
        yield Case(f"{golden.name}/{run}", (f"out/{run}",), partial(_check_run, golden, device, run))


@provides("paper_base_forward")
def paper_base_cases(golden: GoldenSet, device: torch.device) -> Iterator[Case]:
    def run() -> Iterator[Check]:
        yield from _check_forward(golden, device, golden.name, "out", golden.value("shifts"))

    yield Case(golden.name, ("out",), run)


@provides("paper_sr_forward")
def paper_sr_cases(golden: GoldenSet, device: torch.device) -> Iterator[Case]:
    yield Case(golden.name, ("out",), partial(_check_sr, golden, device, golden.name, "in", "out", _tolerance(golden)))


@provides("sr")
def sr_forward_cases(golden: GoldenSet, device: torch.device) -> Iterator[Case]:
    tolerance = golden.value("recommended_tolerance", "forward")
    bounds = tolerance["atol"], tolerance["rtol"]
    check = partial(_check_sr, golden, device, f"{golden.name}/forward", "in/forward", "out/forward", bounds)
    yield Case(f"{golden.name}/forward", ("out/forward",), check)


def _check_time(golden: GoldenSet, device: torch.device) -> Iterator[Check]:
    t, bounds = golden["in/t"].to(device), _tolerance(golden)
    network = base_network(golden, device)
    if "mid/timestep_embedding" in golden:
        actual = timestep_embedding(t, network.config.channels)
        yield compare(f"{golden.name}/timestep_embedding", actual, golden["mid/timestep_embedding"], *bounds)
    if "mid/time_embed_out" in golden:
        with torch.no_grad():
            yield compare(f"{golden.name}/time_embed_out", network.time_embed(t), golden["mid/time_embed_out"], *bounds)


def _check_weights(golden: GoldenSet) -> Iterator[Check]:
    weights = to_published(base_network(golden, torch.device("cpu")))
    actual, expected = [], []
    for name, (total, *first) in golden.value("weights_check").items():
        if name not in weights:
            raise FolderError(f"{golden.name}.json checks the weight {name}, which its network does not have")
        flat = weights[name].flatten().double()
        actual += [flat.sum(), *flat[: len(first)]]
        expected += [total, *first]
    numbers = torch.tensor(actual), torch.tensor(expected)
    yield compare(f"{golden.name}/weights", *numbers, 1e-6, 1e-6, note="sums and first values of some tensors")


def _check_run(golden: GoldenSet, device: torch.device, run: str) -> Iterator[Check]:
    recorded = golden.value("runs", run)
    yield from _check_forward(
        golden, device, f"{golden.name}/{run}", f"out/{run}", recorded["shifts"], recorded.get("blocks", {})
    )


def _check_forward(
    golden: GoldenSet,
    device: torch.device,
    case: str,
    out: str,
    shifts: list[int],
    blocks: dict[str, Any] | None = None,
) -> Iterator[Check]:
    network = base_network(golden, device)
    x, t = Pair(golden["in/video"].to(device), golden["in/audio"].to(device)), golden["in/t"].to(device)
    statistics: dict[str, dict[str, Tensor]] = {}
    for name in blocks or ():
        block = network.get_submodule(name)
        last = block[-1] if isinstance(block, nn.ModuleList) else block
        last.register_forward_hook(partial(_record, statistics, name))
    with torch.no_grad():
        eps = network(x, Pair(t, t), shifts_of(shifts, len(t)))
    bounds = _tolerance(golden)
    for modality, actual in zip(MODALITIES, eps, strict=True):
        yield compare(f"{case}/{modality}", actual, golden[f"{out}/{modality}"], *bounds)
    checks = [
        compare(f"{name}/{modality}", statistics[name][modality], _numbers_of(expected), *bounds)
        for name, recorded in (blocks or {}).items()
        for modality, expected in recorded.items()
    ]
    if checks:
        missed = [check.case for check in checks if not check.passed]
        note = f"first miss: {missed[0]}" if missed else f"mean, std and 16 values of {len(checks)} outputs"
        yield Check(f"{case}/blocks", max(check.error for check in checks), bounds[0], not missed, note=note)


def _numbers_of(expected: dict[str, Any]) -> Tensor:
    return torch.tensor([expected["mean"], expected["std"], *expected["first"]])


def _record(
    statistics: dict[str, dict[str, Tensor]], name: str, module: nn.Module, args: Any, pair: tuple[Tensor, Tensor]
) -> None:
    """Mean, standard deviation and first 16 values of a block's output in the published order of dimensions."""

    def summary(x: Tensor) -> Tensor:
        return torch.cat([x.mean()[None], x.std()[None], x.flatten()[:16]])

    video, audio = pair
    statistics[name] = {"video": summary(video.movedim(-1, 2)), "audio": summary(audio.movedim(-1, 1))}


def _check_sr(
    golden: GoldenSet, device: torch.device, case: str, inputs: str, out: str, bounds: tuple[float, float]
) -> Iterator[Check]:
    network = sr_network(golden, device)
    with torch.no_grad():
        eps, logits = network(
            golden[f"{inputs}/x"].to(device), golden["in/low_res"].to(device), golden[f"{inputs}/t"].to(device)
        )
    yield compare(case, eps if logits is None else torch.cat([eps, logits], dim=1), golden[out], *bounds)


def _tolerance(golden: GoldenSet) -> tuple[float, float]:
    return golden.value("recommended_tolerance", "atol"), golden.value("recommended_tolerance", "rtol")


def _seeded(network: Any, golden: GoldenSet, device: torch.device) -> Any:
    seeded_weights(network, golden.value("weights_seed"))
    return network.to(device)


def _numbers(text: str) -> tuple[int, ...]:
    """`"1,4,8"` → (1, 4, 8); scripts write "no scale" as -1."""
    return tuple(number for number in map(int, filter(None, text.split(","))) if number > 0)


def _published_mult(golden: GoldenSet, height: int) -> tuple[int, ...]:
    if height not in PUBLISHED_MULT:
        raise FolderError(
            f"{golden.name}.json gives no channel_mult, and there is no published one for frames of {height} pixels"
        )
    return PUBLISHED_MULT[height]
