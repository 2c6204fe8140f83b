"""Captions from templates with synonyms. Without torch.

A template has a field for each attribute. An attribute that is not mentioned leaves its field empty.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from model.training.scenes.kinds import KINDS

MENTIONED = 0.75
"""Probability that a caption mentions an attribute."""

_DAY_NIGHT = (("by day", "in daylight", "during the day"), ("at night", "in the dark", "by night"))

_WORDS: dict[str, dict[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "fire": {
        "size": (("small", "little", "low"), ("big", "large", "tall")),
        "crackle": (("burning calmly", "with few sparks"), ("crackling loudly", "with flying sparks")),
        "time": _DAY_NIGHT,
    },
    "rain": {
        "strength": (("light", "gentle", "soft"), ("heavy", "pouring", "hard")),
        "wind": (("falling straight", "without wind"), ("driven by wind", "slanted by wind")),
        "time": _DAY_NIGHT,
    },
    "thunder": {
        "distance": (("close by", "very near"), ("far away", "in the distance")),
        "strength": (("weak", "mild"), ("strong", "violent", "mighty")),
        "rain": (("without rain", "in dry air"), ("in the rain", "with rain")),
    },
    "waves": {
        "strength": (("calm", "small", "gentle"), ("stormy", "big", "rough")),
        "pace": (("slowly", "at a slow pace"), ("quickly", "at a fast pace")),
        "time": _DAY_NIGHT,
    },
    "waterfall": {
        "strength": (("thin", "narrow", "small"), ("mighty", "broad", "roaring")),
        "distance": (("close by", "very near"), ("far away", "in the distance")),
        "time": _DAY_NIGHT,
    },
    "wind": {
        "strength": (("light", "mild", "gentle"), ("stormy", "strong", "howling")),
        "grass": (("short", "low"), ("tall", "high")),
        "time": _DAY_NIGHT,
    },
    "bubbles": {
        "size": (("small", "tiny", "little"), ("big", "large", "fat")),
        "number": (("a few", "few"), ("many", "lots of")),
        "depth": (("in shallow water", "just below the surface"), ("in deep water", "in the deep sea")),
    },
    "explosion": {
        "size": (("small", "little"), ("big", "huge", "large")),
        "distance": (("close by", "very near"), ("far away", "in the distance")),
        "debris": (("without debris", "with clean smoke"), ("with flying debris", "throwing debris")),
        "time": _DAY_NIGHT,
    },
}

_TEMPLATES: dict[str, tuple[str, ...]] = {
    "fire": ("a {size} fire {crackle} {time}", "{size} flames {crackle} {time}", "a {size} campfire {crackle} {time}"),
    "rain": ("{strength} rain {wind} {time}", "{strength} rainfall {wind} {time}", "a {strength} shower {wind} {time}"),
    "thunder": (
        "{strength} thunder and lightning {distance} {rain}",
        "a {strength} thunderstorm {rain} lightning {distance}",
        "a {strength} stroke of lightning {distance} {rain}",
    ),
    "waves": (
        "{strength} waves breaking {pace} on a shore {time}",
        "{strength} surf rolling {pace} onto a beach {time}",
        "the {strength} sea washing {pace} over the sand {time}",
    ),
    "waterfall": (
        "a {strength} waterfall {distance} {time}",
        "a {strength} cascade of water {distance} {time}",
        "water falling in a {strength} stream over a cliff {distance} {time}",
    ),
    "wind": (
        "{strength} wind over {grass} grass {time}",
        "a {strength} wind blowing through {grass} grass {time}",
        "{grass} grass waving in a {strength} wind {time}",
    ),
    "bubbles": (
        "{number} {size} bubbles rising {depth}",
        "{number} {size} air bubbles popping {depth}",
        "underwater {number} {size} bubbles {depth}",
    ),
    "explosion": (
        "a {size} explosion {distance} {debris} {time}",
        "a {size} blast {distance} {debris} {time}",
        "a {size} bomb going off {distance} {debris} {time}",
    ),
}


def caption(kind: int, values: Sequence[int], u: Sequence[float] | None = None) -> str:
    """The caption of a scene of `kind` with attribute `values`.

    `u`: numbers in [0, 1), one that chooses the template and two for each attribute. Without them, the caption is the
    plainest that mentions every attribute.
    """
    name = KINDS[kind].name
    templates, words = _TEMPLATES[name], _WORDS[name]
    if u is None:
        u = [0.0] * (1 + 2 * len(words))
    chosen = {}
    for number, (attribute, choices) in enumerate(words.items()):
        mention, synonym = u[1 + 2 * number], u[2 + 2 * number]
        options = choices[values[number]]
        chosen[attribute] = options[int(synonym * len(options))] if mention < MENTIONED else ""
    text = templates[int(u[0] * len(templates))].format(**chosen)
    text = re.sub(r"\s+", " ", text).strip()
    return re.sub(r"\ba (?=[aeiou])", "an ", text)


def mentions(values: int) -> int:
    """Numbers that `caption` needs for `values` attributes."""
    return 1 + 2 * values
