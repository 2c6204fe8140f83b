"""In which steps the scale of a prompt guides, and so how many forwards each step takes."""

from __future__ import annotations

from model.checkpoint.text_encoding import TextEncoding
from model.request import SamplingParams, prompt_forwards
from model.sampling.schedule import CLEAN, NoiseSchedule


def guided_until(schedule: NoiseSchedule, text: TextEncoding, scale: float) -> float:
    """The last time at which `scale` guides. One below 1 holds the prompt back, which has to last: without guidance the
    prompt counts in full."""
    if text.guided_share == 1 or scale < 1:
        return CLEAN
    noisiest = schedule.log_snr(schedule.last)
    return schedule.time_of_log_snr(noisiest + text.guided_share * (schedule.log_snr(0) - noisiest))


def step_forwards(schedule: NoiseSchedule, text: TextEncoding | None, params: SamplingParams) -> tuple[int, ...]:
    """Forwards of a window in each step of the base network, for resolved `params` and the model's `text`: two where a
    prompt guides."""
    assert params.steps is not None
    if text is None or params.prompt_scale is None or prompt_forwards(params) == 1:
        return (1,) * params.steps
    # Not of the tuned sampler, which takes no guided prompt.
    cut = schedule.grid if params.sampler == "dpm_solver" else schedule.times
    until = guided_until(schedule, text, params.prompt_scale)
    return tuple(2 if t >= until else 1 for t in cut(params.steps, params.spacing)[:-1])
