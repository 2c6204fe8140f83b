"""Which rater rates which clips, and in which order. Both follow from the ids alone, so they can be computed again."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence


def assign(
    groups: Sequence[Sequence[str]], checks: Sequence[str], raters: Sequence[str], repeats: int
) -> dict[str, tuple[str, ...]]:
    """The clips of each rater, in the order in which they are shown.

    `groups`: ids of the clips of each label. Each clip goes to `repeats` raters. Of each label, and in all, no rater
    has more than one clip more than another. Ties are broken by a hash, so that raters share different clips with
    different raters, and their effects and those of the clips can be told apart. Raises ValueError if there are fewer
    raters than `repeats`.
    """
    if not 1 <= repeats <= len(raters):
        raise ValueError(f"the number of ratings of a clip must be 1 … {len(raters)}, the number of raters")
    shares: dict[str, list[str]] = {rater: [] for rater in raters}
    for group in groups:
        rated: Counter[str] = Counter()
        for clip in sorted(group):
            free = sorted(raters, key=lambda rater: (rated[rater], len(shares[rater]), _hash(rater, clip)))
            for rater in free[:repeats]:
                shares[rater].append(clip)
                rated[rater] += 1
    return {rater: _order(rater, clips, checks) for rater, clips in shares.items()}


def _order(rater: str, clips: Sequence[str], checks: Sequence[str]) -> tuple[str, ...]:
    """The clips in the rater's own random order, with the attention checks at even distances between them."""
    order = sorted(clips, key=lambda clip: _hash(rater, clip))
    for number, check in enumerate(sorted(checks, key=lambda clip: _hash(rater, clip))):
        place = round((number + 1) * len(clips) / (len(checks) + 1))
        order.insert(place + number, check)
    return tuple(order)


def _hash(rater: str, clip: str) -> bytes:
    return hashlib.sha256(f"{rater}:{clip}".encode()).digest()
