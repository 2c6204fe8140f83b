"""Measures of clips of `scenes`, defined in docs/evaluation.md: whether the kind and the attributes that were asked for
are recognised in the sound and in the pictures, and whether events are seen and heard together.

The detectors are the classifiers that ship with Duet, so that real clips have no perfect scores either.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from model.evaluation.alignment import Measure, paired_events, ratio
from model.evaluation.classifiers.scene_networks import Answers, load_scene_classifiers
from model.evaluation.classifiers.scene_training import answer, own_attributes
from model.networks.config import ClipSpec
from model.sampling.latents import Latents
from model.training.scenes import Truth
from model.training.scenes.kinds import KINDS, NAMES
from model.training.scenes.thunder import DELAYS

AT_ONCE = 64
"""Clips classified together."""

THUNDER = NAMES.index("thunder")
DISTANCE = [attribute.name for attribute in KINDS[THUNDER].attributes].index("distance")


@dataclass(frozen=True)
class SceneDetections:
    """What was asked of each clip and what the classifiers found; clip i was asked for kind i modulo 8.

    `asked` and `values` as in Truth. `heard_kind` and `seen_kind` (clips,); `heard_values` and `seen_values` (clips,
    MOST_ATTRIBUTES), of the kind that was asked for. `heard` and `seen` (clips, frames): frames with an event; thunder
    is heard as early as its flash where the pictures show it far away. `near_kind`: kind of the sound that is compared
    with the pictures.
    """

    asked: Tensor
    values: Tensor
    heard_kind: Tensor
    near_kind: Tensor
    seen_kind: Tensor
    heard_values: Tensor
    seen_values: Tensor
    heard: Tensor
    seen: Tensor

    @property
    def clips(self) -> int:
        return len(self.asked)

    def shuffled(self, by: int) -> SceneDetections:
        """Kinds are compared with those of clips of other kinds, attributes with values of which half are swapped (over
        eight shuffles), and events with those of other clips of the same kind."""
        other = by + (by - 1) // (len(KINDS) - 1)  # no multiple of the number of kinds
        same = len(KINDS) * (1 + (by - 1) % (self.clips // len(KINDS) - 1))
        swap = (by >> torch.arange(self.values.shape[1]) % 3) & 1
        return replace(
            self,
            asked=self.asked.roll(other, 0),
            near_kind=self.near_kind.roll(other, 0),
            values=torch.where(self.values < 0, self.values, self.values ^ swap),
            heard=self.heard.roll(same, 0),
        )


def detect_scenes(clips: Latents, truth: Truth, spec: ClipSpec) -> SceneDetections:
    """Classify `clips`, which were asked to be as `truth`. Raises ValueError unless their number is a multiple of 8, at
    least 16."""
    count = clips.batch
    if count % len(KINDS) or count < 2 * len(KINDS):
        raise ValueError(f"clips must be a multiple of {len(KINDS)}, at least {2 * len(KINDS)}; got {count}")
    networks = load_scene_classifiers()
    sizes = [len(part) for part in torch.arange(count).split(AT_ONCE)]
    parts = [answer(networks, part.map(torch.Tensor.cpu), spec) for part in clips.split(sizes)]
    sound, pictures = (
        Answers(*(torch.cat([getattr(part[side], name) for part in parts]) for name in Answers.__dataclass_fields__))
        for side in (0, 1)
    )
    heard_kind, seen_kind = sound.kind.argmax(1), pictures.kind.argmax(1)
    far = (seen_kind == THUNDER) & (pictures.attributes[:, THUNDER, DISTANCE] > 0)
    heard = sound.events > 0
    delay = round(sum(DELAYS[1]) / 2 * spec.fps)
    early = torch.cat([heard[:, delay:], torch.zeros_like(heard[:, :delay])], dim=1)
    return SceneDetections(
        asked=truth.kind,
        values=truth.attributes,
        heard_kind=heard_kind,
        near_kind=heard_kind,
        seen_kind=seen_kind,
        heard_values=(own_attributes(sound.attributes, truth.kind) > 0).long(),
        seen_values=(own_attributes(pictures.attributes, truth.kind) > 0).long(),
        heard=torch.where(far[:, None], early, heard),
        seen=pictures.events > 0,
    )


def _same(first: Tensor, second: Tensor) -> Tensor:
    return torch.stack([(first == second).float(), torch.ones(len(first))], dim=1)


def _values(found: SceneDetections, detected: Tensor) -> Tensor:
    there = found.values >= 0
    return torch.stack([((detected == found.values) & there).sum(1), there.sum(1)], dim=1).float()


def _events(found: SceneDetections) -> Tensor:
    pairs = paired_events(found.heard, found.seen)[0].sum(1)
    return torch.stack([2 * pairs, found.heard.sum(1) + found.seen.sum(1)], dim=1).float()


SCENE_MEASURES: tuple[Measure, ...] = (
    Measure("kind_heard", "kind heard", lambda found: _same(found.heard_kind, found.asked), ratio),
    Measure("kind_seen", "kind seen", lambda found: _same(found.seen_kind, found.asked), ratio),
    Measure("kinds_agree", "sound and picture agree", lambda found: _same(found.near_kind, found.seen_kind), ratio),
    Measure("values_heard", "attributes heard", lambda found: _values(found, found.heard_values), ratio),
    Measure("values_seen", "attributes seen", lambda found: _values(found, found.seen_values), ratio),
    Measure("event_f1", "event F1", _events, ratio),
)

WITHOUT_PROMPT = ("kinds_agree", "event_f1")
"""Measures of clips that nothing was asked of."""
