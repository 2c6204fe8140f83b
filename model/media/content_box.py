"""Where a displayed picture lies in the network's letter-boxed one."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class ContentBox:
    """Rows and columns of the picture inside a letter-boxed one, from the upper left."""

    top: int
    left: int
    rows: int
    columns: int

    def scaled(self, factor: int) -> ContentBox:
        """In the picture that super-resolution made `factor` times as large."""
        return ContentBox(self.top * factor, self.left * factor, self.rows * factor, self.columns * factor)


def content_box(rows: int, columns: int, aspect: Fraction, height: int, width: int) -> ContentBox:
    """The box of a picture of `rows`×`columns` pixels, of which each is `aspect` times as wide as it is high, in one of
    `height`×`width` square pixels.

    Sides are truncated to whole pixels, and an odd pixel of border goes to the right and bottom, as in the published
    loader.
    """
    wide = columns * aspect
    ratio = min(Fraction(height, rows), Fraction(width) / wide)
    size = max(1, int(rows * ratio)), max(1, int(wide * ratio))
    return ContentBox((height - size[0]) // 2, (width - size[1]) // 2, *size)
