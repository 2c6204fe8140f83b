"""Networks that predict v or x_0: conversion to noise, by hand and in every use."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch import Tensor

from model.networks.config import PRESETS, PredictionType, ScheduleConfig
from model.networks.coupled_unet import CoupledUNet
from model.networks.super_resolution import SRUNet
from model.runtime.evaluator import Evaluator
from model.sampling.latents import Latents
from model.sampling.prediction import loss_weight, to_eps, training_target
from model.sampling.samplers import Evaluate, EvaluateFrames
from model.sampling.schedule import NoiseSchedule
from model.training.denoising_loss import denoising_loss
from model.training.super_resolution_loss import super_resolution_loss

SCHEDULE = NoiseSchedule.from_config(ScheduleConfig())
TINY = PRESETS["tiny"]
PREDICTIONS: tuple[PredictionType, ...] = get_args(PredictionType)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_an_exact_prediction_gives_the_exact_noise(prediction: PredictionType) -> None:
    x0, eps = drawn(4, 3), drawn(4, 3, seed=1)
    alpha = torch.tensor([0.999, 0.8, 0.3, 0.01]).view(-1, 1)
    sigma = (1 - alpha**2).sqrt()
    right = training_target(prediction, x0, eps, alpha, sigma)
    torch.testing.assert_close(
        to_eps(prediction, right, alpha * x0 + sigma * eps, alpha, sigma), eps, atol=1e-4, rtol=0
    )


def test_v_is_eps_at_no_noise_and_minus_x0_in_pure_noise() -> None:
    x0, eps, one, none = drawn(3), drawn(3, seed=1), torch.tensor(1.0), torch.tensor(0.0)
    assert torch.equal(training_target("v", x0, eps, one, none), eps)
    assert torch.equal(training_target("v", x0, eps, none, one), -x0)


@pytest.mark.parametrize(("prediction", "factor"), [("eps", 0.0), ("v", 1.0), ("x0", -1.0)])
def test_samplers_get_noise_from_a_network_that_predicts_zero(prediction: PredictionType, factor: float) -> None:
    """A new network predicts 0: ε̂ is then 0, σ x or x / σ, with the σ of each sample's and modality's time."""
    network = CoupledUNet(replace(TINY.base, prediction=prediction))
    x = Latents(drawn(1, *TINY.clip.video_shape), drawn(1, *TINY.clip.audio_shape))
    requests = [Evaluate(x, 800.0, 700.0), Evaluate(x, 10.0, 0.0, t_audio=500.0)]
    answers = Evaluator(network, None, SCHEDULE)(requests)
    for answer, times in zip(answers, ((800, 800), (10, 500)), strict=True):
        for name, t in zip(("video", "audio"), times, strict=True):
            expected = x[name] * (SCHEDULE.sigma(t) ** factor if factor else 0.0)
            torch.testing.assert_close(answer.eps[name], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("prediction", "factor"), [("eps", 0.0), ("v", 1.0), ("x0", -1.0)])
def test_super_resolution_gets_noise_from_a_network_that_predicts_zero(
    prediction: PredictionType, factor: float
) -> None:
    assert TINY.sr is not None
    evaluator = Evaluator(None, SRUNet(replace(TINY.sr, prediction=prediction)), SCHEDULE)
    x, low_res = drawn(2, 3, 64, 64), drawn(2, 3, 16, 16)
    answers = evaluator([EvaluateFrames(x, low_res, 700.0), EvaluateFrames(x, low_res, 30.0)])
    for answer, t in zip(answers, (700, 30), strict=True):
        expected = x * (SCHEDULE.sigma(t) ** factor if factor else 0.0)
        torch.testing.assert_close(answer.eps, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("t", [0.0, 0.69, 1.82, 640.5])
def test_the_samplers_x0_is_the_networks_x0(t: float) -> None:
    """Also at times between two of the schedule, where the network receives the lower one and predicts 0."""
    assert TINY.sr is not None
    base, sr = CoupledUNet(replace(TINY.base, prediction="x0")), SRUNet(replace(TINY.sr, prediction="x0"))
    x = Latents(drawn(1, *TINY.clip.video_shape), drawn(1, *TINY.clip.audio_shape))
    frames = drawn(1, 3, 64, 64)
    both, large = Evaluator(base, sr, SCHEDULE)([Evaluate(x, t, 0.0), EvaluateFrames(frames, drawn(1, 3, 16, 16), t)])
    for noisy, eps in ((x["video"], both.eps["video"]), (x["audio"], both.eps["audio"]), (frames, large.eps)):
        assert SCHEDULE.to_x0(noisy, eps, t).abs().max() < 1e-5


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_loss_is_that_of_the_prediction(prediction: PredictionType) -> None:
    x0 = Latents(drawn(2, 2, 3, 4, 4), drawn(2, 1, 8, seed=1))
    noise = Latents(drawn(2, 2, 3, 4, 4, seed=2), drawn(2, 1, 8, seed=3))
    t_video, t_audio = torch.tensor([10, 900]), torch.tensor([500, 500])

    def right(times: Tensor, name: str) -> Tensor:
        alpha_bar = torch.tensor(SCHEDULE.alpha_bar[times.numpy()]).float()
        alpha_bar = alpha_bar.view(-1, *(1,) * (x0[name].dim() - 1))
        return training_target(prediction, x0[name], noise[name], alpha_bar.sqrt(), (1 - alpha_bar).sqrt())

    video, audio = right(t_video, "video"), right(t_audio, "audio")
    known = denoising_loss(lambda *_: (video, audio), SCHEDULE, x0, t_video, t_audio, noise, prediction=prediction)
    assert known.total.item() == pytest.approx(0, abs=1e-10)
    silent = denoising_loss(
        lambda *_: (0 * video, 0 * audio), SCHEDULE, x0, t_video, t_audio, noise, prediction=prediction
    )

    def weights(times: Tensor) -> Tensor:
        sigma = torch.tensor([SCHEDULE.sigma(t) for t in times.tolist()])
        return loss_weight(prediction, sigma)

    expected = video.square().flatten(1).mean(1) * weights(t_video)
    assert silent.video.tolist() == pytest.approx(expected.tolist(), rel=1e-5)
    expected = audio.square().flatten(1).mean(1) * weights(t_audio)
    assert silent.audio.tolist() == pytest.approx(expected.tolist(), rel=1e-5)


def test_an_error_of_x0_weighs_as_the_equivalent_error_of_v() -> None:
    x0, eps, wrong = drawn(5), drawn(5, seed=1), drawn(5, seed=2)
    sigma = torch.tensor(0.6)
    alpha = (1 - sigma**2).sqrt()
    x = alpha * x0 + sigma * eps
    v, v_wrong = (alpha * to_eps("x0", clip, x, alpha, sigma) - sigma * clip for clip in (x0, wrong))
    weighed = (x0 - wrong).square().sum() * loss_weight("x0", sigma)
    assert weighed.item() == pytest.approx((v - v_wrong).square().sum().item(), rel=1e-4)
    assert loss_weight("x0", torch.tensor([0.01, 1.0])).tolist() == [25.0, 1.0]


def test_the_super_resolution_loss_is_that_of_the_prediction() -> None:
    x0, noise, t = drawn(2, 3, 4, 4), drawn(2, 3, 4, 4, seed=1), torch.tensor([0, 700])
    terms = super_resolution_loss(lambda *_: (x0 + 0.5, None), SCHEDULE, x0, x0, t, noise, "x0")
    assert terms["mse"].tolist() == pytest.approx([0.25 * 25, 0.25 / SCHEDULE.sigma(700) ** 2], rel=1e-5)


@pytest.mark.parametrize("prediction", ["v", "x0"])
def test_the_variance_loss_does_not_depend_on_the_prediction_type(prediction: PredictionType) -> None:
    x0, noise, t = drawn(2, 3, 4, 4).clamp(-1, 1), drawn(2, 3, 4, 4, seed=1), torch.tensor([300, 700])
    logits = drawn(2, 3, 4, 4, seed=2)
    sigma = torch.tensor([SCHEDULE.sigma(at) for at in t.tolist()]).view(-1, 1, 1, 1)

    def bound(kind: PredictionType) -> Tensor:
        right = training_target(kind, x0, noise, (1 - sigma**2).sqrt(), sigma)
        return super_resolution_loss(lambda *_: (right, logits), SCHEDULE, x0, x0, t, noise, kind)["vb"]

    torch.testing.assert_close(bound(prediction), bound("eps"), rtol=1e-3, atol=1e-5)
