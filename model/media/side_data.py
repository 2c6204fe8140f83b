"""What a decoded frame carries beside its pixels: display matrix, mastering display, light level."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from av.sidedata.sidedata import SideData, SideDataContainer, Type
from av.video.frame import VideoFrame


def side_data(frame: VideoFrame) -> dict[str, bytes]:
    """The side data of `frame` by the library's names, such as DISPLAYMATRIX.

    `frame.side_data` would keep the frame in a reference cycle, and with it its pixels until a garbage collection.
    """
    return {one.type.name: bytes(one) for one in cast(Iterable[SideData], SideDataContainer(frame))}  # type: ignore[call-arg]


def _unknown(cls: type[Type], value: int) -> Type:
    """A name for a kind that the binding does not list, such as EXIF and the views of stereoscopic HEVC.

    Without it, the side data of a frame that carries one cannot be read at all.
    """
    member = object.__new__(cls)
    member._name_ = f"UNKNOWN_{value}"
    member._value_ = value  # type: ignore[assignment]
    return member


Type._missing_ = classmethod(_unknown)  # type: ignore[assignment]
