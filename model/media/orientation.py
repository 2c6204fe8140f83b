"""Pictures upright as they are displayed, and as they are stored in a file with a display matrix."""

from __future__ import annotations

import numpy as np

from model.media.frames import TimedFrame


def stored(picture: np.ndarray, matrix: tuple[int, ...] | None) -> np.ndarray:
    """A picture (h, w, …) as it is displayed → as it is stored; undoes `decode.upright_rgb`."""
    if matrix is None:
        return picture
    a, b, _, c, d = matrix[:5]
    if a and d and not b and not c:
        return picture[:: 1 if d > 0 else -1, :: 1 if a > 0 else -1]
    if b and c and not a and not d:
        return picture[:: 1 if b > 0 else -1, :: 1 if c > 0 else -1].swapaxes(0, 1)
    return picture


def displayed_size(shown: TimedFrame) -> tuple[int, int]:
    """Rows and columns of the picture upright, in its own pixels."""
    matrix = shown.display_matrix
    turned = matrix is not None and not matrix[0] and not matrix[4] and matrix[1] and matrix[3]
    rows, columns = shown.frame.height, shown.frame.width
    return (columns, rows) if turned else (rows, columns)
