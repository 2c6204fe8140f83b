"""Batch sizes: every plan covers what is asked for, at the least cost, with no forward made of padding alone."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.runtime.batch_sizes import BatchSizes

SIZES = st.sets(st.sampled_from([1, 2, 3, 4, 8, 16]), min_size=1)


@given(SIZES, st.integers(1, 40))
def test_a_plan_covers_the_samples_with_sizes_that_exist(sizes: set[int], count: int) -> None:
    plan = BatchSizes(list(sizes)).plan(count)
    assert set(plan) <= sizes
    assert sum(plan) >= count
    assert sum(plan) - min(plan) < count
    assert plan == sorted(plan, reverse=True)


def test_without_measured_times_nothing_is_padded_and_large_batches_go_first() -> None:
    assert BatchSizes((1, 2, 4, 8)).plan(11) == [8, 2, 1]
    assert BatchSizes((1, 2, 4)).plan(11) == [4, 4, 2, 1]


def test_a_single_size_is_always_filled_up() -> None:
    assert [BatchSizes((8,)).plan(count) for count in (1, 8, 9)] == [[8], [8], [8, 8]]


@given(st.integers(1, 12), st.lists(st.floats(0.5, 20), min_size=3, max_size=3))
def test_measured_times_decide_when_padding_pays(count: int, costs: list[float]) -> None:
    sizes = (1, 4, 8)
    seconds = dict(zip(sizes, costs, strict=True))
    plan = BatchSizes(sizes, seconds).plan(count)
    every = itertools.chain.from_iterable(
        itertools.combinations_with_replacement(sizes, forwards) for forwards in range(1, count + 1)
    )
    least = min(sum(seconds[size] for size in choice) for choice in every if sum(choice) >= count)
    assert sum(seconds[size] for size in plan) == pytest.approx(least)


def test_sizes_that_did_not_fit_are_not_tried_again() -> None:
    batch_sizes = BatchSizes((1, 2, 4, 8, 16))
    assert batch_sizes.halve(16)
    assert batch_sizes.sizes == (1, 2, 4, 8)
    assert batch_sizes.halve(4)
    assert batch_sizes.sizes == (1, 2)
    only = BatchSizes((8,))
    assert only.halve(8)
    assert only.sizes == (4,)
    assert not BatchSizes((1,)).halve(1)


@pytest.mark.parametrize("sizes", [(), (0, 1), (-2,)])
def test_sizes_below_one_are_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="batch sizes"):
        BatchSizes(sizes)


def test_a_plans_cost_is_that_of_its_forwards() -> None:
    assert [BatchSizes((1, 2, 4)).cost(count) for count in range(6)] == [0, 1, 2, 3, 4, 5]
    measured = BatchSizes((1, 16), {1: 1.0, 16: 3.0})
    assert [measured.cost(count) for count in (1, 2, 3, 9, 16, 17)] == [1, 2, 3, 3, 3, 4]
