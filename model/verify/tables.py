"""Schedules, respacings, time grids, RS-MMA index tables and attention on odd shapes, embeddings, conversion to
bytes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.networks.attention import attend, attend_windows, window_keys
from model.networks.layers import timestep_embedding
from model.runtime.pipeline import to_uint8
from model.sampling.samplers import singlestep_orders
from model.sampling.schedule import NoiseSchedule, cosine_betas, linear_betas, respaced_times
from model.verify.chains import SPACINGS
from model.verify.folder import GoldenSet
from model.verify.report import Case, Check, compare, provides

SCHEDULE = NoiseSchedule(linear_betas(1000))


@provides("misc")
def table_cases(golden: GoldenSet, device: torch.device) -> Iterator[Case]:
    checks = {
        "schedule/": _check_schedules,
        "dpm/": _check_grids,
        "timestep_embedding/": _check_embeddings,
        "rsmma/": _check_rs_mma,
        "attn/": _check_self_attention,
        "to_uint8/": _check_uint8,
    }
    for prefix, check in checks.items():
        covers = tuple(name for name in golden.expectations if name.startswith(prefix))
        if covers:
            yield Case(f"{golden.name}/{prefix.rstrip('/')}", covers, partial(check, golden, device))
    yield Case(f"{golden.name}/orders", (), partial(_check_orders, golden))


def _check_schedules(golden: GoldenSet, device: torch.device) -> Iterator[Check]:
    ours: dict[str, Any] = {"linear1000/betas": SCHEDULE.betas, "linear1000/alphas_cumprod": SCHEDULE.alpha_bar}
    ours["linear1000/sqrt_alphas_cumprod"] = [SCHEDULE.alpha(t) for t in range(1000)]
    posteriors = np.array([SCHEDULE.posterior(t, t - 1) for t in range(1000)])
    ours["linear1000/posterior_mean_coef1"], ours["linear1000/posterior_mean_coef2"] = (
        posteriors[:, 0],
        posteriors[:, 1],
    )
    ours["linear1000/posterior_variance"] = posteriors[:, 2]
    # The first variance is zero; its logarithm is published as that of the second.
    ours["linear1000/posterior_log_variance_clipped"] = np.log(np.append(posteriors[1, 2], posteriors[1:, 2]))
    ours["cosine1000/betas"] = cosine_betas(1000)
    for name in golden.tensors:
        if name.startswith("schedule/"):
            key = name.removeprefix("schedule/")
            values = ours[key] if key in ours else _respaced_betas(key.removeprefix("respaced_").removesuffix("/betas"))
            yield compare(f"{golden.name}/{name}", torch.tensor(np.asarray(values)), golden[name], 1e-12, 1e-9)
    for respacing, expected in golden.value("timestep_maps").items():
        kept = [int(t) for t in reversed(respaced_times(1000, respacing)[:-1])]
        yield _equal(f"{golden.name}/timestep_map/{respacing}", torch.tensor(kept), torch.tensor(expected))


def _respaced_betas(respacing: str) -> list[float]:
    times = respaced_times(1000, respacing)
    return [SCHEDULE.transition_beta(t, s) for t, s in zip(times[-2::-1], times[:0:-1], strict=True)]


def _check_grids(golden: GoldenSet, device: torch.device) -> Iterator[Check]:
    # Published times are (index + 1) / 1000. Below index 0 the published code extrapolates, where we go to zero noise.
    t = golden["dpm/t"].double()
    inside = t >= 1e-3
    index = [float(value) for value in t[inside] * 1000 - 1]
    for name, function in (("log_alpha", SCHEDULE.log_alpha), ("std", SCHEDULE.sigma), ("lambda", SCHEDULE.log_snr)):
        actual = torch.tensor([function(k) for k in index])
        yield compare(f"{golden.name}/dpm/{name}", actual, golden[f"dpm/{name}"][inside], 5e-5, 1e-5)
    inverse = torch.tensor([(SCHEDULE.time_of_log_snr(SCHEDULE.log_snr(k)) + 1) / 1000 for k in index])
    expected = golden["dpm/inverse_lambda_of_lambda"][inside]
    yield compare(f"{golden.name}/dpm/inverse_lambda", inverse, expected, 5e-5, 1e-5)
    for name in golden.tensors:
        kind, _, grid = name.removeprefix("dpm/").partition("/")
        if kind in ("times", "t_input"):
            skip_type, _, steps = grid.rpartition("_")
            times = SCHEDULE.grid(int(steps), SPACINGS[skip_type])
            if kind == "times":
                actual = torch.tensor([(time + 1) / 1000 for time in times])
                yield compare(f"{golden.name}/{name}", actual, golden[name], 2e-5, 0.0)
            else:
                yield _equal(
                    f"{golden.name}/{name}", torch.tensor([SCHEDULE.model_time(t) for t in times]), golden[name]
                )


def _check_orders(golden: GoldenSet) -> Iterator[Check]:
    recorded = golden.value("dpm_orders_singlestep")
    wrong = []
    for name, expected in recorded.items():
        order, steps = (int(part.strip("abcdefghijklmnopqrstuvwxyz")) for part in name.split("_"))
        if singlestep_orders(steps, order) != expected:
            wrong.append(name)
    note = f"{len(recorded)} lists" if not wrong else f"differ: {', '.join(wrong[:5])}"
    yield Check(f"{golden.name}/orders", float(len(wrong)), 0.0, not wrong, note=note)


def _check_embeddings(golden: GoldenSet, device: torch.device) -> Iterator[Check]:
    t = golden["timestep_embedding/t"].to(device)
    for name in golden.tensors:
        if name.startswith("timestep_embedding/dim"):
            expected = golden[name]
            yield compare(f"{golden.name}/{name}", timestep_embedding(t, expected.shape[1]), expected, 1e-4, 1e-5)


def _check_rs_mma(golden: GoldenSet, device: torch.device) -> Iterator[Check]:
    for number, case in enumerate(golden.value("rsmma_cases")):
        prefix = f"rsmma/{number}"
        frames, window, samples = case["frames"], case["window"], case["audio_len"]
        tokens, per_frame = case["h"] * case["w"], samples // case["frames"]
        shift = torch.tensor([case["shift"]], device=device)
        # Recorded indices count through all tokens, video before audio.
        for name, first, length, size in (
            ("video_frame_keys", frames * tokens, samples, per_frame),
            ("audio_segment_keys", 0, frames * tokens, tokens),
        ):
            keys = first + window_keys(length, frames, size, window, shift)[0]
            yield _equal(f"{golden.name}/{prefix}/{name}", keys, golden[f"{prefix}/{name}"])
        if f"{prefix}/qkv" in golden:
            heads = case["attention"]["heads"]
            qkv = golden[f"{prefix}/qkv"].to(device).transpose(1, 2).unflatten(2, (3, heads, -1))
            both = qkv[:, : frames * tokens], qkv[:, frames * tokens :]
            (q_video, k_video, v_video), (q_audio, k_audio, v_audio) = (each.unbind(2) for each in both)
            shift = shift.expand(qkv.shape[0])
            out_video = attend_windows(q_video, k_audio, v_audio, frames, tokens, per_frame, window, shift)
            out_audio = attend_windows(q_audio, k_video, v_video, frames, per_frame, tokens, window, shift)
            for name, out in (("out_video", out_video), ("out_audio", out_audio)):
                yield compare(
                    f"{golden.name}/{prefix}/{name}", out.transpose(1, 2), golden[f"{prefix}/{name}"], 1e-5, 1e-4
                )


def _check_self_attention(golden: GoldenSet, device: torch.device) -> Iterator[Check]:
    qkv = golden["attn/qkv"].to(device).transpose(1, 2)
    heads = 4
    layouts = {
        "new_order_heads4": qkv.unflatten(2, (3, heads, -1)).unbind(2),
        "legacy_heads4": qkv.unflatten(2, (heads, 3, -1)).unbind(3),
    }
    for name, (q, k, v) in layouts.items():
        out = attend(q, k, v).flatten(2).transpose(1, 2)
        yield compare(f"{golden.name}/attn/{name}", out, golden[f"attn/{name}"], 1e-5, 1e-4)


def _check_uint8(golden: GoldenSet, device: torch.device) -> Iterator[Check]:
    values = golden["to_uint8/in"].to(device)
    actual = to_uint8(values.view(1, 1, -1, 1).expand(1, 3, -1, 1))[0, :, 0, 0]
    yield _equal(f"{golden.name}/to_uint8", actual, golden["to_uint8/out"])


def _equal(case: str, actual: Tensor, expected: Tensor) -> Check:
    return compare(case, actual.long(), expected.long(), 0.0, 0.0)
