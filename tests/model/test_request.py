"""Which parameters a job may have, and what they are when nothing is said."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest

from model.checkpoint.manifest import Manifest
from model.checkpoint.text_encoding import TextEncoding
from model.networks.config import PRESETS, ClipSpec, ScheduleConfig
from model.request import (
    RequestError,
    SamplingParams,
    allowed_guidance,
    check_evaluations,
    clip_of,
    prompt_forwards,
)
from tests.model.tuning.solvers import with_solvers

PLAIN = Manifest("plain", PRESETS["tiny"], trained=False, description="", licence="MIT")
CALIBRATED = replace(PLAIN, calibration={"times": [0.0, 999.0], "video": [0.1, 0.2], "audio": [0.1, 0.2]})
INDEPENDENT = replace(CALIBRATED, independent_timesteps=True)
BASE_ONLY = replace(PLAIN, config=replace(PRESETS["tiny"], sr=None))
AUDIO_ONLY = replace(
    PLAIN, config=replace(PRESETS["tiny"], base=replace(PRESETS["tiny"].base, modalities=("audio",)), sr=None)
)


def test_defaults_are_filled_in() -> None:
    params = SamplingParams(seed=1).resolve("generate", PLAIN)
    assert (params.sampler, params.steps, params.spacing) == ("dpmpp_2m", 20, "log_snr")
    assert (params.super_resolution, params.sr_sampler, params.sr_steps) == (True, "dpmpp_2m", 8)
    assert params.guidance is None


def test_defaults_of_one_sampler_are_not_those_of_another() -> None:
    solver = SamplingParams(seed=1, sampler="dpm_solver").resolve("generate", PLAIN)
    assert (solver.order, solver.eta) == (3, None)
    ddim = SamplingParams(seed=1, sampler="ddim").resolve("generate", PLAIN)
    assert (ddim.order, ddim.eta) == (None, 0.0)
    assert SamplingParams(seed=1, sr_sampler="ddim").resolve("a2v", PLAIN).sr_steps == 25


@pytest.mark.parametrize(
    ("manifest", "expected"), [(PLAIN, "replacement"), (CALIBRATED, "pigdm"), (INDEPENDENT, "clean")]
)
def test_conditional_jobs_use_the_best_method_that_the_model_allows(manifest: Manifest, expected: str) -> None:
    for kind in ("v2a", "a2v"):
        assert SamplingParams(seed=1).resolve(kind, manifest).guidance == expected


def test_published_guidance_scales_depend_on_the_direction() -> None:
    scales = [SamplingParams(1, guidance="gradient").resolve(kind, PLAIN).guidance_scale for kind in ("a2v", "v2a")]
    assert scales == [123.0, 16.0]


def test_frames_are_not_upsampled_for_v2a() -> None:
    params = SamplingParams(seed=1).resolve("v2a", PLAIN)
    assert (params.super_resolution, params.sr_sampler, params.sr_steps) == (False, None, None)


@pytest.mark.parametrize(
    ("field", "value", "limits"),
    [
        ("seed", -1, "0 … 9007199254740991"),
        ("seed", 2**53, "0 … 9007199254740991"),
        ("num_outputs", 0, "1 … 8"),
        ("num_outputs", 9, "1 … 8"),
        ("steps", 0, "1 … 1000"),
        ("steps", 1001, "1 … 1000"),
        ("order", 4, "1 … 3"),
        ("eta", 1.5, "0 … 1"),
        ("eta", float("nan"), "0 … 1"),
        ("sr_steps", 251, "1 … 250"),
        ("sr_start", 0, "1 … 999 for the model"),
        ("sr_start", 1000, "1 … 999 for the model"),
        ("guidance_scale", -0.1, "0 … 1000"),
        ("duration", 0.0, "0.1 … 600"),
        ("duration", 600.5, "0.1 … 600"),
        ("duration", float("nan"), "0.1 … 600"),
        ("sampler", "euler", "dpmpp_2m"),
        ("spacing", "cubic", "log_snr"),
        ("guidance", "prayer", "pigdm"),
        ("sr_sampler", "unipc", "ddim"),
    ],
)
def test_values_outside_the_limits_are_refused_with_the_limits(field: str, value: object, limits: str) -> None:
    with pytest.raises(RequestError, match=limits) as refusal:
        replace(SamplingParams(seed=1), **{field: value}).resolve("a2v", PLAIN)
    assert refusal.value.field == field


@pytest.mark.parametrize(
    ("kind", "manifest", "params", "field"),
    [
        ("generate", PLAIN, SamplingParams(1, order=2), "order"),
        ("generate", PLAIN, SamplingParams(1, eta=0.5), "eta"),
        ("generate", PLAIN, SamplingParams(1, guidance="replacement"), "guidance"),
        ("generate", PLAIN, SamplingParams(1, guidance_scale=2.0), "guidance_scale"),
        ("generate", BASE_ONLY, SamplingParams(1, super_resolution=True), "super_resolution"),
        ("generate", AUDIO_ONLY, SamplingParams(1, guidance="decoupling"), "guidance"),
        ("v2a", PLAIN, SamplingParams(1, super_resolution=True), "super_resolution"),
        ("v2a", PLAIN, SamplingParams(1, guidance="clean"), "guidance"),
        ("v2a", PLAIN, SamplingParams(1, guidance="pigdm"), "guidance"),
        ("a2v", PLAIN, SamplingParams(1, guidance="gradient_code"), "guidance"),
        ("a2v", PLAIN, SamplingParams(1, guidance="replacement", guidance_scale=2.0), "guidance_scale"),
        ("a2v", PLAIN, SamplingParams(1, sr_sampler="ddim", sr_steps=249), "sr_steps"),
        ("a2v", PLAIN, SamplingParams(1, sr_sampler="ddim", sr_steps=1), "sr_steps"),
        ("a2v", PLAIN, SamplingParams(1, super_resolution=False, sr_steps=4), "sr_steps"),
        ("a2v", PLAIN, SamplingParams(1, super_resolution=False, sr_start=500), "sr_start"),
        ("v2a", PLAIN, SamplingParams(1, sr_start=500), "sr_start"),
        ("a2v", PLAIN, SamplingParams(1, sr_sampler="ddim", sr_start=500), "sr_start"),
        ("a2v", AUDIO_ONLY, SamplingParams(1), "kind"),
        ("sing", PLAIN, SamplingParams(1), "kind"),
    ],
)
def test_parameters_that_do_not_apply_are_refused_not_ignored(
    kind: str, manifest: Manifest, params: SamplingParams, field: str
) -> None:
    with pytest.raises(RequestError) as refusal:
        params.resolve(kind, manifest)
    assert refusal.value.field == field


def test_resolving_twice_changes_nothing() -> None:
    for kind in ("generate", "v2a", "a2v"):
        once = SamplingParams(seed=5).resolve(kind, CALIBRATED)
        assert once.resolve(kind, CALIBRATED) == once


def test_decoupling_is_the_only_guidance_of_joint_generation() -> None:
    assert allowed_guidance("generate", INDEPENDENT) == ("decoupling",)
    assert SamplingParams(1, guidance="decoupling").resolve("generate", PLAIN).guidance_scale == 2.0


@pytest.mark.parametrize(
    ("asked", "made"), [(1.6, 1.6), (1.61, 1.7), (0.1, 0.1), (0.14, 0.2), (3.1, 3.1), (60.0, 60.0), (0.7, 0.7)]
)
def test_a_duration_is_rounded_up_to_whole_frames(asked: float, made: float) -> None:
    manifest = replace(PLAIN, config=replace(PRESETS["tiny"], clip=replace(PRESETS["tiny"].clip, fps=10)))
    once = SamplingParams(seed=1, duration=asked).resolve("generate", manifest)
    assert once.duration == made
    assert once.resolve("generate", manifest) == once
    assert clip_of(once.duration, manifest.config.clip).frames == round(10 * made)


def test_without_a_duration_a_clip_is_one_window() -> None:
    assert SamplingParams(seed=1).resolve("generate", PLAIN).duration is None
    assert clip_of(None, PLAIN.config.clip) == PLAIN.config.clip


@pytest.mark.parametrize(
    ("kind", "guidance", "most"),
    [
        ("generate", None, 609),
        ("generate", "decoupling", 304),
        ("v2a", "clean", 609),
        ("v2a", "pigdm", 203),
        ("v2a", "gradient", 203),
        ("edit", "replacement", 609),
        ("edit", "clean", 203),
    ],
)
def test_a_job_is_limited_by_the_forwards_it_takes(kind: str, guidance: str | None, most: int) -> None:
    """A minute is 41 windows; a gradient costs two forwards more, also that of ΠGDM beside a clean side."""
    clip = ClipSpec()
    manifest = replace(INDEPENDENT, config=replace(INDEPENDENT.config, clip=clip))
    for steps in (most, most + 1):
        params = SamplingParams(1, steps=steps, duration=60.0, guidance=guidance).resolve(kind, manifest)
        with nullcontext() if steps == most else pytest.raises(RequestError, match=f"at most {most} for 1 outputs"):
            check_evaluations(kind, params, clip)
    twice = replace(params, prompt="a ball", prompt_scale=2.0)
    with pytest.raises(RequestError, match=f"at most {most // 2} for 1 outputs"):
        check_evaluations(kind, twice, clip)


TUNED = with_solvers(INDEPENDENT)


def chosen(params: SamplingParams, kind: str = "generate", manifest: Manifest = TUNED) -> tuple[object, ...]:
    """Samplers and steps of a job."""
    resolved = params.resolve(kind, manifest)
    assert resolved.resolve(kind, manifest) == resolved  # a worker resolves what the API has resolved
    return resolved.sampler, resolved.steps, resolved.sr_sampler, resolved.sr_steps


@pytest.mark.parametrize(
    ("quality", "expected"),
    [
        ("fast", ("tuned", 6, "tuned", 3)),
        ("balanced", ("tuned", 10, "tuned", 4)),
        ("best", ("dpmpp_2m", 20, "dpmpp_2m", 8)),
        (None, ("dpmpp_2m", 20, "dpmpp_2m", 8)),
    ],
)
def test_a_quality_sets_samplers_and_steps(quality: str | None, expected: tuple[object, ...]) -> None:
    assert chosen(SamplingParams(1, quality=quality)) == expected
    assert chosen(SamplingParams(1, quality=quality), "v2a") == (*expected[:2], None, None)


def test_a_quality_of_a_model_that_is_not_tuned_has_the_same_steps() -> None:
    assert chosen(SamplingParams(1, quality="fast"), manifest=INDEPENDENT) == ("dpmpp_2m", 6, "dpmpp_2m", 3)
    assert chosen(SamplingParams(1, quality="balanced"), manifest=INDEPENDENT) == ("dpmpp_2m", 10, "dpmpp_2m", 4)
    untuned = SamplingParams(1, quality="fast", guidance="replacement")
    assert chosen(untuned, "v2a")[:2] == ("dpmpp_2m", 6)  # tuned, but not for this guidance
    assert chosen(SamplingParams(1, quality="fast"), "edit")[:2] == ("dpmpp_2m", 6)


def test_samplers_and_steps_override_the_quality() -> None:
    fast = SamplingParams(1, quality="fast")
    assert chosen(replace(fast, steps=8))[:2] == ("tuned", 8)
    assert chosen(replace(fast, steps=7))[:2] == ("dpmpp_2m", 7)
    assert chosen(replace(fast, spacing="uniform"))[:2] == ("dpmpp_2m", 6)  # does not apply to tuned
    assert chosen(replace(fast, sampler="ddim"))[:2] == ("ddim", 6)
    assert chosen(replace(fast, sampler="ddim", steps=50))[:2] == ("ddim", 50)
    assert chosen(replace(fast, sr_steps=2))[2:] == ("tuned", 2)
    assert chosen(replace(fast, sr_steps=20))[2:] == ("dpmpp_2m", 20)
    assert chosen(replace(fast, sr_sampler="ddim"))[2:] == ("ddim", 25)
    assert chosen(replace(fast, sr_start=500))[2:] == ("dpmpp_2m", 3)  # tuned solvers have starts of their own
    assert chosen(SamplingParams(1, sampler="tuned"))[:2] == ("tuned", 6)
    assert chosen(SamplingParams(1, quality="balanced", sampler="tuned"))[:2] == ("tuned", 10)
    assert chosen(SamplingParams(1, sr_sampler="tuned"))[2:] == ("tuned", 3)


def test_the_start_of_super_resolution_ends_with_the_schedule_of_the_model() -> None:
    short = replace(PLAIN, config=replace(PLAIN.config, schedule=ScheduleConfig(steps=100)))
    assert SamplingParams(1, sr_start=99).resolve("generate", short).sr_start == 99
    with pytest.raises(RequestError, match="1 … 99 for the model"):
        SamplingParams(1, sr_start=100).resolve("generate", short)
    long = replace(PLAIN, config=replace(PLAIN.config, schedule=ScheduleConfig(steps=4000)))
    assert SamplingParams(1, sr_start=3999).resolve("generate", long).sr_start == 3999
    assert SamplingParams(1).resolve("generate", long).sr_start is None


@pytest.mark.parametrize(
    ("kind", "manifest", "params", "field", "message"),
    [
        ("generate", PLAIN, SamplingParams(1, sampler="tuned"), "sampler", "no solvers .* for generate"),
        ("generate", PLAIN, SamplingParams(1, sr_sampler="tuned"), "sr_sampler", "no tuned solvers"),
        ("generate", TUNED, SamplingParams(1, sampler="tuned", steps=20), "steps", "one of 4, 6, 8, 10; got 20"),
        ("generate", TUNED, SamplingParams(1, quality="best", sampler="tuned"), "steps", "got 20"),
        ("generate", TUNED, SamplingParams(1, sr_sampler="tuned", sr_steps=8), "sr_steps", "one of 2, 3, 4; got 8"),
        ("generate", TUNED, SamplingParams(1, sampler="tuned", spacing="uniform"), "spacing", "uniform"),
        (
            "generate",
            TUNED,
            SamplingParams(1, sr_sampler="tuned", sr_start=500),
            "sr_start",
            "super-resolution is tuned",
        ),
        ("generate", TUNED, SamplingParams(1, sampler="tuned", eta=0.5), "eta", "the sampler is tuned"),
        ("generate", TUNED, SamplingParams(1, quality="fast", eta=0.5), "eta", "the sampler is dpmpp_2m"),
        ("v2a", TUNED, SamplingParams(1, sampler="tuned", guidance="gradient"), "sampler", "v2a with gradient"),
        ("generate", TUNED, SamplingParams(1, sampler="tuned", guidance="decoupling"), "sampler", "decoupling"),
        ("generate", TUNED, SamplingParams(1, quality="fastest"), "quality", "one of fast, balanced, best"),
        ("v2a", TUNED, SamplingParams(1, quality="fast", guidance="gradient_code"), "guidance", "dpmpp_2m"),
    ],
)
def test_what_a_model_is_not_tuned_for_is_refused(
    kind: str, manifest: Manifest, params: SamplingParams, field: str, message: str
) -> None:
    with pytest.raises(RequestError, match=message) as refused:
        params.resolve(kind, manifest)
    assert refused.value.field == field


WORDS = replace(PLAIN, text=TextEncoding("static-256", "ab" * 32, ("en",), ("heavy rain",), scale=2.5))


def test_a_prompt_is_trimmed_and_gets_the_models_scale() -> None:
    params = SamplingParams(1, prompt=" heavy rain\n", negative_prompt="wind").resolve("generate", WORDS)
    assert (params.prompt, params.negative_prompt, params.prompt_scale) == ("heavy rain", "wind", 2.5)
    assert prompt_forwards(params) == 2
    assert params.resolve("generate", WORDS) == params
    plain = SamplingParams(1, prompt="rain", prompt_scale=1).resolve("generate", WORDS)
    assert prompt_forwards(plain) == 1


def test_a_guided_prompt_is_not_made_by_solvers_that_were_tuned_without() -> None:
    tuned = replace(TUNED, text=WORDS.text)
    for kind in ("generate", "v2a", "a2v"):
        for quality, steps in (("fast", 6), ("balanced", 10)):
            plain = SamplingParams(1, quality=quality)
            for free in (plain, replace(plain, prompt=" "), replace(plain, prompt="rain", prompt_scale=1)):
                assert chosen(free, kind, tuned)[:2] == ("tuned", steps)
            for guided in ({}, {"prompt_scale": 0.0}, {"negative_prompt": "wind"}):
                params = replace(plain, prompt="rain", **guided)
                assert chosen(params, kind, tuned)[:2] == ("dpmpp_2m", steps)
                assert chosen(params, "generate", tuned)[2] == "tuned"  # super-resolution has no prompt
        explicit = SamplingParams(1, sampler="tuned", prompt="rain")
        with pytest.raises(RequestError, match="unless prompt_scale is 1") as refused:
            explicit.resolve(kind, tuned)
        assert refused.value.field == "sampler"
        assert chosen(replace(explicit, prompt_scale=1), kind, tuned)[:2] == ("tuned", 6)


@pytest.mark.parametrize("empty", [None, "", " \n"])
def test_an_empty_prompt_is_none(empty: str | None) -> None:
    for manifest in (PLAIN, WORDS):
        params = SamplingParams(1, prompt=empty, negative_prompt=empty).resolve("generate", manifest)
        assert (params.prompt, params.negative_prompt, params.prompt_scale) == (None, None, None)
        assert prompt_forwards(params) == 1


@pytest.mark.parametrize("kind", ["generate", "v2a", "a2v", "edit"])
def test_a_model_without_text_takes_no_prompt(kind: str) -> None:
    with pytest.raises(RequestError, match=r"^the model plain knows no words$") as error:
        SamplingParams(1, prompt="rain").resolve(kind, PLAIN)
    assert error.value.field == "prompt"
    assert SamplingParams(1, prompt="rain").resolve(kind, WORDS).prompt == "rain"


@pytest.mark.parametrize(
    ("given", "field", "reason"),
    [
        ({"negative_prompt": "rain"}, "negative_prompt", "only with prompt"),
        ({"prompt_scale": 2.0}, "prompt_scale", "only with prompt"),
        ({"prompt": "", "prompt_scale": 2.0}, "prompt_scale", "only with prompt"),
        ({"prompt": "rain", "negative_prompt": "wind", "prompt_scale": 1.0}, "negative_prompt", "prompt_scale 1"),
        ({"prompt": "rain", "prompt_scale": 21.0}, "prompt_scale", "0 … 20"),
        ({"prompt": "rain", "prompt_scale": float("nan")}, "prompt_scale", "0 … 20"),
        ({"prompt": "x" * 301}, "prompt", "at most 300 characters; got 301"),
        ({"prompt": "rain", "negative_prompt": "x" * 301}, "negative_prompt", "at most 300"),
        ({"prompt": "rain\nsnow"}, "prompt", "one line"),
        ({"prompt": "rain\x00"}, "prompt", "control"),
        ({"prompt": "\x1b[2Jrain"}, "prompt", "control"),
        ({"prompt": "rain\u202eniar"}, "prompt", "control"),
        ({"prompt": "\ud800"}, "prompt", "control"),
    ],
)
def test_impossible_words_are_refused_by_name(given: dict[str, Any], field: str, reason: str) -> None:
    with pytest.raises(RequestError, match=reason) as error:
        SamplingParams(1, **given).resolve("generate", WORDS)
    assert error.value.field == field
    assert "rain" not in str(error.value)
