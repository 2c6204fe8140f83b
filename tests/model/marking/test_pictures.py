"""The mark in pictures: how faint it is, what it survives, and that it is found nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from model.marking.keys import keyed_noise
from model.marking.pictures import GRID, PSNR, SMALLEST, TESTS, PictureDetector, PictureMark
from model.marking.significance import NOMINAL_RATE, Finding, Score, judged, windows
from model.networks.config import ClipSpec
from model.training.bounce import Bounce

KEY = "a key of the tests"
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    """(8, 128, 128, 3) uint8."""
    spec = ClipSpec(frames=8, fps=10, height=128, width=128, sample_rate=8000)
    video = Bounce(spec, 3, "train").batch(torch.tensor([5]))["video"][0]
    return ((video + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


def detected(pictures: np.ndarray, key: str = KEY, fps: float = 10) -> Finding:
    detector = PictureDetector(key)
    for number, picture in enumerate(pictures):
        detector.add(picture, number / fps, (number + 1) / fps)
    return detector.finish()


def scaled(pictures: np.ndarray, height: int, width: int) -> np.ndarray:
    moved = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2)
    return F.interpolate(moved, (height, width), mode="bicubic", antialias=True).permute(0, 2, 3, 1).numpy()


def test_pictures_keep_their_quality_and_only_the_right_key_finds_the_mark(clip: np.ndarray) -> None:
    marked = PictureMark(KEY).applied(clip)
    error = np.square(marked.astype(float) - clip).mean()
    assert 10 * np.log10(255**2 / error) >= PSNR
    found = detected(marked)
    assert found.found
    assert found.chance < 1e-20
    assert (found.start, found.end) == (0.0, 0.8)
    assert not detected(marked, "another key").found
    assert not detected(clip).found


def test_scaling_cropping_and_a_cut_in_time_leave_the_mark(clip: np.ndarray) -> None:
    marked = PictureMark(KEY).applied(clip)
    for changed in (scaled(marked, 64, 64), scaled(marked, 300, 500), marked[:, 3:118, 10:125], marked[5:6]):
        assert detected(changed).found
    assert not detected(marked[:, :, ::-1]).found  # mirrored: not one of the alignments that are tried


def test_the_pattern_is_the_same_at_every_size() -> None:
    mark = PictureMark(KEY)
    large, small = (mark.pattern(side, side).astype(np.float32) for side in (256, 128))
    shrunk = F.avg_pool2d(torch.from_numpy(large)[None, None], 2)[0, 0].numpy()
    assert np.corrcoef(shrunk.reshape(-1), small.reshape(-1))[0, 1] > 0.98
    assert mark.pattern(256, 256).std() >= 1


def test_pictures_that_are_too_small_stay_as_they_are() -> None:
    small = np.random.default_rng(0).integers(0, 256, (2, 63, 200, 3), np.uint8)
    assert PictureMark(KEY).applied(small) is small


def test_black_and_white_do_not_wrap_around() -> None:
    for value in (0, 255):
        flat = np.full((1, 64, 64, 3), value, np.uint8)
        assert np.abs(PictureMark(KEY).applied(flat).astype(int) - value).max() < 20


def test_a_part_of_a_long_clip_is_found_at_its_time(clip: np.ndarray) -> None:
    long = np.concatenate([clip] * 8)  # 6.4 s
    long[20:40] = PictureMark(KEY).applied(long[20:40])
    found = detected(long)
    assert found.found
    assert (found.start, found.end) == (2.0, 4.0)


def test_the_score_needed_counts_all_alignments_and_windows() -> None:
    assert sum((GRID - side + 1) for side in range(SMALLEST, GRID + 1)) ** 2 == TESTS
    one, many = (judged([Score(6.0, 0, 1)] * count, TESTS) for count in (1, 60))
    assert one.found
    assert not many.found
    assert one.chance < NOMINAL_RATE < many.chance
    assert windows(3) == [(0, 3)]
    assert windows(4) == [(0, 4), (0, 2), (1, 3), (2, 4)]


def test_no_mark_is_found_in_noise_or_nothing() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (4, 64, 64, 3), np.uint8)
    assert not detected(noise).found
    assert detected(np.zeros((4, 64, 64, 3), np.uint8)).score == 0
    with pytest.raises(ValueError, match="no frame"):
        PictureDetector(KEY).finish()


def test_the_published_pattern_never_changes() -> None:
    """Otherwise this version would not find the marks of others."""
    assert keyed_noise("k", "sound", 3).tolist() == pytest.approx([-0.628384, 0.661929, 0.665868], abs=1e-6)
    assert PictureMark("k").pattern(64, 64)[0, :8].tolist() == [0, -4, -1, 0, -1, -1, 1, 2]
