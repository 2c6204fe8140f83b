"""Captions of scenes: number and colour of the discs, their speed, and the pitch of the impacts."""

from __future__ import annotations

import torch

from model.training.bounce.draws import Draws
from model.training.bounce.motion import SPEEDS
from model.training.bounce.scene import HUES, PITCHES, Scene

COLOURS = (("red", "crimson"), ("green", "lime"), ("cyan", "turquoise"), ("violet", "purple"))
"""Words for each class of hue."""

NOUNS = ("disc", "ball")
VERBS = ("bounces", "jumps", "bounces around")
SPEED_WORDS = (("slowly", "gently"), ("fast", "quickly"))
PITCH_WORDS = (("low notes", "deep tones"), ("high notes", "bright tones"))

MIDDLE_SPEED = sum(SPEEDS) / 2
"""Sideways, frame widths per second. Slower discs are slow."""

LOW, HIGH = (PITCHES[0] * (PITCHES[1] / PITCHES[0]) ** share for share in (0.4, 0.6))
"""Hertz. The caption names the pitch if the geometric mean of the impacts is below LOW or above HIGH."""

MENTIONED = 0.7
"""Fraction of captions that name the speed, and of those that name a clear pitch."""


def captions(scene: Scene, draws: Draws) -> list[str]:
    """One caption for each sample of `scene`, worded by `draws`."""
    impact = scene.impact
    pitch = (scene.pitch.log2() * impact).nan_to_num().sum(1) / impact.sum(1).clamp(min=1)
    words = draws.uniform("caption", 8).tolist()
    pitch = torch.where(impact.any(1), pitch.exp2(), (LOW * HIGH) ** 0.5)  # without an impact neither low nor high
    rows = zip(words, scene.hue.tolist(), scene.present.tolist(), _speed(scene), pitch.tolist(), strict=True)
    return [_caption(*row) for row in rows]


def _speed(scene: Scene) -> list[float]:
    there = scene.present
    return ((scene.motion.speed * there).sum(1) / there.sum(1)).tolist()


def _caption(u: list[float], hue: list[int], present: list[bool], speed: float, pitch: float) -> str:
    assert max(hue) < HUES
    noun = _pick(NOUNS, u[0])
    colours = [_pick(COLOURS[each], u[1]) for each, there in zip(hue, present, strict=True) if there]
    if len(colours) == 1:
        subject, verb = f"a {colours[0]} {noun}", _pick(VERBS, u[2])
    else:
        subject = f"a {colours[0]} {noun} and a {colours[1]} {noun}"
        verb = _pick(VERBS, u[2]).replace("bounces", "bounce").replace("jumps", "jump")
    text = f"{subject} {verb}"
    if u[3] < MENTIONED:
        text += f" {_pick(SPEED_WORDS[speed >= MIDDLE_SPEED], u[4])}"
    if (pitch < LOW or pitch > HIGH) and u[5] < MENTIONED:
        text += f" with {_pick(PITCH_WORDS[pitch > HIGH], u[6])}"
    return text


def _pick(words: tuple[str, ...], u: float) -> str:
    return words[int(u * len(words))]
