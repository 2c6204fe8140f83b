"""The random numbers of a clip depend only on its seed and index."""

from __future__ import annotations

import torch

from model.sampling.latents import Latents
from model.sampling.randomness import RandomStream


def test_the_same_seed_and_index_draw_the_same_numbers() -> None:
    first, second = RandomStream(7, 1), RandomStream(7, 1)
    assert torch.equal(first.normal((3, 4)), second.normal((3, 4)))
    assert torch.equal(first.shifts((15, 12, 8)), second.shifts((15, 12, 8)))


def test_random_numbers_equal_the_recorded_ones() -> None:
    """Recorded values: a change here changes the clip of every seed, so it must be intended."""
    drawn = RandomStream(42, 0).normal((4,))
    assert torch.allclose(drawn, torch.tensor([-0.0919778, -2.6022618, 0.0787410, 0.0242055]), atol=1e-6), (
        drawn.tolist()
    )


def test_seeds_and_outputs_differ() -> None:
    draws = [RandomStream(seed, index).normal((8,)) for seed in (0, 1, 2**53 - 1) for index in (0, 1)]
    assert len({tuple(draw.tolist()) for draw in draws}) == len(draws)


def test_video_is_drawn_before_audio() -> None:
    like = Latents(torch.empty(1, 2, 3, 4, 4), torch.empty(1, 1, 10))
    together = RandomStream(3).normal_like(like)
    stream = RandomStream(3)
    assert torch.equal(together["video"], stream.normal((1, 2, 3, 4, 4)))
    assert torch.equal(together["audio"], stream.normal((1, 1, 10)))


def test_shifts_reach_both_ends_and_no_further() -> None:
    shifts = RandomStream(0).shifts((2, 0, 5), batch=500)
    assert shifts.shape == (500, 3)
    assert [sorted(set(column.tolist())) for column in shifts.unbind(1)] == [[0, 1, 2], [0], [0, 1, 2, 3, 4, 5]]


def test_a_frames_noise_depends_on_its_number_alone() -> None:
    stream = RandomStream(7, 1)
    whole = stream.frame_noise(0, 20, (3, 4, 4))
    assert torch.equal(stream.frame_noise(5, 12, (3, 4, 4)), whole[5:12])
    assert torch.equal(RandomStream(7, 1).normal((4,)), stream.normal((4,)))  # it advances nothing
    assert len({tuple(frame.flatten().tolist()) for frame in whole}) == 20
    assert not torch.equal(RandomStream(7, 2).frame_noise(0, 1, (4,)), RandomStream(7, 1).frame_noise(0, 1, (4,)))
    many = stream.frame_noise(0, 400, (100,))
    assert abs(float(many.mean())) < 0.02
    assert abs(float(many.std()) - 1) < 0.02


def test_integers_reach_both_ends_and_no_further() -> None:
    stream = RandomStream(0)
    assert {stream.integer(3, 6) for _ in range(200)} == {3, 4, 5, 6}
