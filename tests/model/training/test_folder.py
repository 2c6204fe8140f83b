"""A folder of videos as a data set: good, broken, silent, too short, without sound."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from model.media.decode import decode_audio, decode_video
from model.networks.config import ClipSpec
from model.training.configuration import DataConfig
from model.training.dataset import DataError, evaluation_indexes
from model.training.folder import FolderSource, open_folder, prepare_folder
from model.training.folder_check import check_folder
from model.training.sources import ReadAhead
from tests.clips import Film, Track, make
from tests.command_line import invoke
from tests.model.training.runs import run, small

CLIP = ClipSpec(frames=8, fps=10, height=16, width=24, sample_rate=1280)
CPU = torch.device("cpu")
BOTH = ("video", "audio")


class Silence(Track):
    def samples(self) -> np.ndarray:
        return np.zeros_like(super().samples())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two usable videos, and one for each reason to leave a file out."""
    root = tmp_path_factory.mktemp("videos")
    (root / "inner").mkdir()
    good = Film(frames=60, fps=Fraction(30))
    make(root / "a.mp4", good, Track(seconds=2.0, sample_rate=32_000))
    make(root / "inner" / "b.mp4", Film(frames=30, fps=Fraction(10), width=48), Track(seconds=3.0, sample_rate=16_000))
    make(root / "mute.mp4", good)
    make(root / "short.mp4", Film(frames=12), Track(seconds=0.4))
    make(root / "silent.mp4", good, Silence(seconds=2.0))
    (root / "broken.mp4").write_bytes((root / "a.mp4").read_bytes()[:3000])
    (root / "words.mp4").write_text("not a video")
    (root / "notes.txt").write_text("no business of ours")
    return root


def test_the_folder_check_gives_the_reason_for_each_unusable_file(folder: Path) -> None:
    found = {file.path.name: file for file in check_folder(folder, CLIP)}
    assert sorted(found) == ["a.mp4", "b.mp4", "broken.mp4", "mute.mp4", "short.mp4", "silent.mp4", "words.mp4"]
    assert (found["a.mp4"].problem, found["b.mp4"].problem) == (None, None)
    for name, words in {
        "mute.mp4": "no sound",
        "short.mp4": "too short",
        "silent.mp4": "silent",
        "broken.mp4": "its index (the moov box) is missing",
        "words.mp4": "cannot be opened",
    }.items():
        assert words in (found[name].problem or ""), name
        assert found[name].windows == 0
    good = found["a.mp4"]
    assert (good.width, good.height, good.fps, good.sample_rate, good.channels) == (64, 48, 30.0, 32_000, 2)
    assert good.seconds == pytest.approx(2.0, abs=0.01)
    assert good.windows == 13  # 20 frames at 10 fps
    assert found["b.mp4"].windows == 23


def test_video_only_training_ignores_sound(folder: Path) -> None:
    used = {file.path.name for file in check_folder(folder, CLIP, ("video",)) if file.problem is None}
    assert used == {"a.mp4", "b.mp4", "mute.mp4", "silent.mp4"}


def test_the_command_lists_files_left_out(folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text('preset = "tiny"')
    said = invoke(["data", "check", str(folder), "--config", str(config)])
    assert said.exit_code == 0
    assert "7 videos, 2 of them can be trained on, 36 clips" in said.output
    assert "silent.mp4: silent" in said.output
    as_json = invoke(["data", "check", str(folder), "--config", str(config), "--json"])
    assert {Path(file["path"]).name for file in json.loads(as_json.output) if not file["problem"]} == {"a.mp4", "b.mp4"}
    nothing = invoke(["data", "check", str(tmp_path)])
    assert nothing.exit_code == 1


def opened(folder: Path, cache: Path, said: list[str] | None = None, **changes: object) -> tuple[FolderSource, ...]:
    config = DataConfig(source="folder", folder=str(folder), held_out=0.0, **changes)  # type: ignore[arg-type]
    return open_folder(config, CLIP, BOTH, cache, (said if said is not None else []).append)


def test_windows_equal_the_clips_that_the_service_decodes(folder: Path, tmp_path: Path) -> None:
    source, _ = opened(folder, tmp_path)
    clips = source.batch(evaluation_indexes(36), CPU)  # in order: 13 of a.mp4, 23 of b.mp4
    for number, path, start in ((0, "a.mp4", 0.0), (5, "a.mp4", 0.5), (13 + 22, "inner/b.mp4", 2.2)):
        video, audio = decode_video(folder / path, CLIP, start), decode_audio(folder / path, CLIP, start)
        torch.testing.assert_close(clips["video"][number], video, atol=1e-6, rtol=0)
        assert (clips["audio"][number] - audio).abs().max() < 1e-4  # 16-bit samples


def test_every_epoch_has_each_window_once_in_a_new_order(folder: Path, tmp_path: Path) -> None:
    source, _ = opened(folder, tmp_path, flip=True)
    count = len(source)
    assert count == 36

    def order(epoch: int) -> list[int]:
        windows, _ = source._windows_of(torch.arange(epoch * count, (epoch + 1) * count))
        return windows.tolist()

    first, second = order(0), order(1)
    assert sorted(first) == sorted(second) == list(range(count))
    assert first != second
    # A batch across the end of an epoch, read alone and again.
    across = torch.arange(count - 2, count + 2)
    assert source._windows_of(across)[0].tolist() == [*first[-2:], *second[:2]]
    torch.testing.assert_close(source.batch(across, CPU)["video"], source.batch(across, CPU)["video"])
    _, flips = source._windows_of(torch.arange(10 * count))
    assert 0.3 < flips.mean() < 0.7


def test_the_cache_is_reused_until_the_folder_changes(folder: Path, tmp_path: Path) -> None:
    said: list[str] = []
    opened(folder, tmp_path, said)
    assert sum(line.startswith("left out") for line in said) == 5
    said.clear()
    opened(folder, tmp_path, said)
    assert said == ["2 videos to train on, 36 clips; 0 held out"]
    (folder / "words.mp4").write_text("changed")
    prepare_folder(folder, CLIP, BOTH, tmp_path, said.append)
    assert any(line.startswith("preparing") for line in said)


def test_files_are_held_out(folder: Path, tmp_path: Path) -> None:
    config = DataConfig(source="folder", folder=str(folder), held_out=0.5)
    source, held_out = open_folder(config, CLIP, BOTH, tmp_path, lambda _: None)
    assert {len(source), len(held_out)} == {13, 23}


def test_a_folder_without_usable_videos_is_refused(folder: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    with pytest.raises(DataError, match="has no videos"):
        opened(bad, tmp_path / "cache")
    (bad / "words.mp4").write_text("not a video")
    with pytest.raises(DataError, match="none of its 1 videos can be trained on"):
        opened(bad, tmp_path / "cache")
    with pytest.raises(DataError, match="there is no folder"):
        opened(tmp_path / "nowhere", tmp_path / "cache")


def test_batches_read_ahead_are_the_requested_ones(folder: Path, tmp_path: Path) -> None:
    source, _ = opened(folder, tmp_path)
    batches: Sequence[torch.Tensor] = [torch.arange(4 * k, 4 * k + 4) for k in range(8)]
    with ReadAhead(source, iter(batches), CPU) as ahead:
        for numbers in batches:
            torch.testing.assert_close(ahead.batch(numbers, CPU)["video"], source.batch(numbers, CPU)["video"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["base", "sr"])
def test_a_run_trains_on_a_folder(kind: str, folder: Path, tmp_path: Path) -> None:
    data = {"source": "folder", "folder": str(folder), "flip": True}
    _, done = run(small(kind=kind, steps=2, data=data, output={"coupling": 2, "samples": 2}), tmp_path)
    assert done
