"""Settings of distillation: the few evaluations of the student, and the teacher's steps between them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from model.networks.config import ConfigError
from model.sampling.schedule import CLEAN, NoiseSchedule


@dataclass(frozen=True)
class DistillationConfig:
    """`teacher`: the folder of the model to distil; empty: no distillation. The student takes `evaluations` steps,
    evenly spaced in log-SNR from `first_log_snr` to `last_log_snr`, and from there to the clean clip. Each matches
    `teacher_steps` steps of the teacher."""

    teacher: str = ""
    evaluations: int = 4
    teacher_steps: int = 4
    first_log_snr: float = -3.0
    last_log_snr: float = 1.5

    def __post_init__(self) -> None:
        if min(self.evaluations, self.teacher_steps) < 1:
            raise ConfigError(
                f"evaluations and teacher_steps must be at least 1; got {self.evaluations} and {self.teacher_steps}"
            )
        if self.first_log_snr >= self.last_log_snr:
            raise ConfigError(
                f"first_log_snr must be below last_log_snr; got {self.first_log_snr:g} and {self.last_log_snr:g}"
            )

    def times(self, schedule: NoiseSchedule) -> list[float]:
        """Where the student is evaluated, whole times, and CLEAN. Raises ConfigError if two of them are the same."""
        log_snrs = np.linspace(self.first_log_snr, self.last_log_snr, self.evaluations)
        times = [float(round(schedule.time_of_log_snr(float(value)))) for value in log_snrs]
        if times[0] >= schedule.last or any(t <= s for t, s in pairwise(times)):
            raise ConfigError(
                f"distillation: {self.evaluations} evaluations from log-SNR {self.first_log_snr:g} to "
                f"{self.last_log_snr:g} are not as many different times of the schedule, after the noisiest one"
            )
        return [*times, CLEAN]

    def teacher_times(self, schedule: NoiseSchedule, t: float, s: float) -> list[float]:
        """The teacher's times from t to s, `teacher_steps` evaluations."""
        if s == CLEAN:
            return schedule.times(self.teacher_steps, "log_snr", t)
        log_snrs = np.linspace(schedule.log_snr(t), schedule.log_snr(s), self.teacher_steps + 1)[1:-1]
        return [t, *(schedule.time_of_log_snr(float(value)) for value in log_snrs), s]
