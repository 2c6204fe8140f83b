"""Puts new sound into spans of an upload's own, which stays sample by sample outside of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from model.media.edits import Span
from model.media.linear_prediction import continue_sound
from model.media.loudness import pieces
from model.media.mix_levels import Mix, MixReport
from model.media.mix_sound import middle, mix_sounds, to_format
from model.media.source import Sound
from model.media.spooled import filled, release

FADE = 0.010
"""Seconds of the cross-fade from own to new sound at each border of a span, inside it."""

CONTEXT = 0.050
"""Seconds of the own sound from which its continuation is predicted."""

RINGING = 0.100
"""Most seconds for which a tone of the own sound goes on in new sound."""

DECAYS = 0.97
"""Most of a ringing sound's amplitude that is left after half of CONTEXT."""

FAINT = 0.25
"""Amplitude of a continuation, as a share of the own sound's, below which it has died away."""


def splice_sound(
    own: Sound, new: np.ndarray, spans: Sequence[Span], mix: Mix, folder: Path | None = None
) -> tuple[Sound, np.ndarray, MixReport | None]:
    """`own` with `new` (1, samples), of the same rate and timeline, in `spans` (seconds).

    Returns the result, in the own sound's format; `new` as it is in the result, (1, samples), silent elsewhere; and
    what mixing came to, None if nothing was mixed or set to a loudness. With a `folder` long sounds are kept in files
    there that have no name.

    Each end of a span fades from one to the other within FADE, so that level and waveform have no step. Where nothing
    is mixed, a tone that decays as a span begins rings out in it, as linear prediction continues it, for RINGING at
    most: the new sound has another phase, which a shorter fade would turn into an attack. A mix is made of what both
    have in the spans.
    """
    total = len(own.samples)
    borders = [(round(start * own.sample_rate), min(round(end * own.sample_rate), total)) for start, end in spans]
    cuts = [slice(first, last) for first, last in borders if first < last]
    samples, alone = own.samples, filled((1, total), "f4", 0, folder)
    report: MixReport | None = None
    if not cuts:
        return own, alone, report
    samples = filled(own.samples.shape, own.samples.dtype.str, 0, folder)
    _copy(own, samples)
    place, mixed, inside = middle(own.layout)[:, None], None, new
    if not mix.changes_nothing:
        mixed, inside, report = mix_sounds(*_gathered(own, new, cuts, folder), mix, folder)
    position = 0
    for cut in cuts:
        count = cut.stop - cut.start
        share = fade(count, own.sample_rate, begins=cut.start > 0, ends=cut.stop < total, folder=folder)
        rings = np.empty((own.samples.shape[1], 0), np.float32)
        if cut.start and not mix.keeps_own:
            goes_on = ringing(own, cut.start, count // 2)
            length = goes_on.shape[1]
            if length > round(FADE * own.sample_rate):
                share[:length] = fade_in(length)
                rings = goes_on
        offset = cut.start if mixed is None else position  # of the span in `inside`
        for part in pieces(count):
            at = slice(cut.start + part.start, cut.start + part.stop)
            made = inside[:, offset + part.start : offset + part.stop]
            heard = place * made if mixed is None else mixed.to_float(offset + part.start, offset + part.stop)
            before = own.to_float(at.start, at.stop)
            continued = rings[:, part]
            before[:, : continued.shape[1]] = continued
            samples[at] = to_format(share[part] * heard + (1 - share[part]) * before, own.format)
            alone[:, at] = share[part] * made
            for array in (samples, alone, inside, share):
                release(array)
        position += count
    return replace(own, samples=samples), alone, report


def _gathered(own: Sound, new: np.ndarray, cuts: Sequence[slice], folder: Path | None) -> tuple[Sound, np.ndarray]:
    """Both sounds in all `cuts`, one after the other."""
    total = sum(cut.stop - cut.start for cut in cuts)
    samples = filled((total, own.samples.shape[1]), own.samples.dtype.str, 0, folder)
    made = filled((1, total), "f4", 0, folder)
    position = 0
    for cut in cuts:
        for part in pieces(cut.stop - cut.start):
            at = slice(cut.start + part.start, cut.start + part.stop)
            to = slice(position + part.start, position + part.stop)
            samples[to], made[:, to] = own.samples[at], new[:, at]
            for array in (own.samples, new, samples, made):
                release(array)
        position += cut.stop - cut.start
    return replace(own, samples=samples), made


def _copy(own: Sound, target: np.ndarray) -> None:
    """Copy the samples piece by piece."""
    first = 0
    for piece in own.pieces():
        target[first : first + len(piece)] = piece
        first += len(piece)
        release(target)


def extend_sound(
    own: Sound, new: np.ndarray, before: int, after: int, folder: Path | None = None
) -> tuple[Sound, np.ndarray]:
    """`own` with so many samples of `new` before and after it; `new` (1, samples) has the whole, longer timeline.
    `folder`: as in `splice_sound`.

    Returns the result and the new sound alone. The own sound ends where the new one begins, so the cross-fade is with
    its continuation by linear prediction; a tone goes on after the end as in a span.
    """
    length = len(own.samples)
    shape = (before + length + after, own.samples.shape[1])
    samples, alone = filled(shape, own.samples.dtype.str, 0, folder), filled((1, shape[0]), "f4", 0, folder)
    _copy(own, samples[before : before + length])
    count = round(FADE * own.sample_rate)
    place = middle(own.layout)[:, None]
    for added, at in ((before, 0), (after, before + length)):
        if not added:
            continue
        fading = min(count, added)
        context = min(length, round(CONTEXT * own.sample_rate))
        if at == 0:
            edge = replace(own, samples=own.samples[:context][::-1]).to_float()
            rings, rise, first = continue_sound(edge, fading)[:, ::-1], fade_in(fading)[::-1], added - fading
        else:
            rings = ringing(own, length, added)
            if rings.shape[1] < fading:
                rings = continue_sound(own.to_float(length - context), fading)
            rise, first = fade_in(rings.shape[1]), 0
        for part in pieces(added):
            made = new[:, at + part.start : at + part.stop]
            size = part.stop - part.start
            made = np.pad(made, ((0, 0), (0, size - made.shape[1])))
            share, goes_on = np.ones(size, np.float32), np.zeros((own.samples.shape[1], size), np.float32)
            begin, end = max(first, part.start), min(first + len(rise), part.stop)
            if begin < end:
                inside, of_edge = slice(begin - part.start, end - part.start), slice(begin - first, end - first)
                share[inside], goes_on[:, inside] = rise[of_edge], rings[:, of_edge]
            to = slice(at + part.start, at + part.stop)
            samples[to] = to_format(share * (place * made) + (1 - share) * goes_on, own.format)
            alone[:, to] = share * made
            for array in (samples, alone, new):
                release(array)
    return replace(own, samples=samples), alone


def ringing(own: Sound, end: int, count: int) -> np.ndarray:
    """What follows the first `end` samples of `own` if it rings out, (channels, samples): for as long as it is not
    faint, RINGING or `count` samples at most. None of a sound that does not decay, whose end is a choice, and none of a
    noise, which cannot be predicted."""
    known = own.to_float(max(0, end - round(CONTEXT * own.sample_rate)), end)
    rises = np.diff(known, axis=1)  # a hum below the tones may go on
    first, last = (np.square(half).mean() if half.size else 0.0 for half in np.array_split(rises, 2, axis=1))
    if last > DECAYS**2 * first:
        return known[:, :0]
    goes_on = continue_sound(known, min(count, round(RINGING * own.sample_rate)))
    block = max(1, round(FADE * own.sample_rate))
    blocks = goes_on[:, : goes_on.shape[1] // block * block].reshape(len(goes_on), -1, block)
    loud = np.square(blocks).mean((0, 2)) > FAINT**2 * np.square(known).mean()
    held = len(loud) if loud.all() else int(loud.argmin())
    return goes_on[:, : goes_on.shape[1] if held == len(loud) else held * block]


def fade(count: int, sample_rate: int, begins: bool, ends: bool, folder: Path | None = None) -> np.ndarray:
    """Share of the new sound in each of `count` samples of a span. Nothing fades at the upload's own ends."""
    fading = min(round(FADE * sample_rate), count // 2)
    share = filled((count,), "f4", 1, folder)
    if begins:
        share[:fading] = fade_in(fading)
    if ends and fading:
        share[count - fading :] = fade_in(fading)[::-1]
    return share


def fade_in(count: int) -> np.ndarray:
    """A rise from 0 to 1 whose slope is 0 at both ends."""
    return (0.5 - 0.5 * np.cos(np.pi * (np.arange(count) + 0.5) / max(1, count))).astype(np.float32)
