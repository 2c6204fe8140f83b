"""Interlaced pictures: which field comes first, and how to make whole pictures of them."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import cast

import av
import av.filter
from av.video.frame import VideoFrame

LEAST_WIDTH, LEAST_HEIGHT = 3, 4
"""Pixels of a picture that the deinterlacer takes."""


def is_top_first(frame: VideoFrame) -> bool:
    """True if the top field of an interlaced `frame` is shown first. The binding tells this to filters only."""
    graph = filter_graph(frame, ("select", "eq(interlace_type,TOPFIRST)"))
    graph.push(frame)
    return next(_pulled(graph), None) is not None


def deinterlaced(frames: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
    """A progressive frame for each of `frames`, in order; those that are progressive already pass unchanged.

    The filter is FFmpeg's bwdif (w3fdif of the BBC with the edge detection of yadif). It looks one frame ahead and one
    back.
    """
    graph: av.filter.Graph | None = None
    kind: tuple[int, int, str] | None = None
    for frame in frames:
        if graph is not None and (frame.width, frame.height, frame.format.name) != kind:
            graph.push(None)
            yield from _pulled(graph)
            graph = None
        is_large = frame.width >= LEAST_WIDTH and frame.height >= LEAST_HEIGHT
        if graph is None and frame.interlaced_frame and is_large:
            kind = frame.width, frame.height, frame.format.name
            graph = filter_graph(frame, ("bwdif", "mode=send_frame:deint=interlaced"))
        if graph is None:
            yield frame
        else:
            graph.push(frame)
            yield from _pulled(graph)
    if graph is not None:
        graph.push(None)
        yield from _pulled(graph)


def filter_graph(frame: VideoFrame, *filters: tuple[str, str]) -> av.filter.Graph:
    """A chain of filters (name, arguments) for frames of the size and format of `frame`."""
    graph = av.filter.Graph()
    time_base = frame.time_base or Fraction(1, 1000)  # no filter here looks at times
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=time_base)
    graph.link_nodes(source, *(graph.add(*each) for each in filters), graph.add("buffersink")).configure()
    return graph


def _pulled(graph: av.filter.Graph) -> Iterator[VideoFrame]:
    while True:
        try:
            yield cast(VideoFrame, graph.pull())
        except (BlockingIOError, av.EOFError):
            return
