"""Memorisation: a planted copy is found, with its training clip; clips that only resemble the training set are not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from model.checkpoint.manifest import FILE_NAME, Manifest
from model.evaluation.memorisation import NamedClips, bounce_clips, film_clips, memorisation, write_pairs
from model.networks.config import PRESETS, ClipSpec
from model.sampling.latents import Latents
from tests.clips import Film, Track, make
from tests.command_line import invoke

CLIP = PRESETS["pocket"].clip
SAMPLES = 12


@pytest.fixture(scope="module")
def training() -> NamedClips:
    return bounce_clips(CLIP, seed=3, count=80)


@pytest.fixture(scope="module")
def others() -> tuple[Latents, Latents]:
    """New clips in place of samples, and held-out ones."""
    samples, held_out = bounce_clips(CLIP, seed=4, count=SAMPLES + 60).clips.split([SAMPLES, 60])
    return samples, held_out


def test_clips_that_were_never_trained_on_are_not_suspicious(
    training: NamedClips, others: tuple[Latents, Latents]
) -> None:
    found = memorisation(others[0], training.clips, others[1], CLIP)
    assert len(found.suspicious) == 0
    assert found.chance == pytest.approx((1 + 0.01 * 59) / 61)  # more than 1 % with few held-out clips
    assert json.loads(found.to_json(training))["expected_by_chance"] == pytest.approx(SAMPLES * found.chance)
    assert found.distance.median() == pytest.approx(float(found.held_out.median()), rel=0.2)


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_a_planted_copy_is_found_with_its_training_clip(
    training: NamedClips, others: tuple[Latents, Latents], noise: float, tmp_path: Path
) -> None:
    draws = torch.Generator().manual_seed(0)
    copied = others[0].map(
        lambda own, known: torch.cat(
            [own[:5], known[17:18] + noise * torch.randn(known[17:18].shape, generator=draws), own[6:]]
        ),
        training.clips,
    )
    found = memorisation(copied, training.clips, others[1], CLIP)
    assert found.suspicious.tolist() == [5]
    assert found.nearest[5] == 17
    assert (found.distance[5] < 1e-6) == (noise == 0)
    assert json.loads(found.to_json(training))["samples"][5]["nearest"] == "bounce, seed 3, number 17"
    write_pairs(found, copied, training, CLIP, tmp_path / "pairs.html", shown=2)
    page = (tmp_path / "pairs.html").read_text()
    assert page.count("<figure>") == 2
    assert "1 of 12 samples" in page
    assert page.index("sample 5: ") < page.index("below the limit")


def test_films_are_training_clips_too(tmp_path: Path) -> None:
    make(tmp_path / "a.mp4", Film(), Track())
    clips = film_clips(tmp_path, ClipSpec(frames=9, fps=10, height=48, width=64, sample_rate=8000), 4, seed=0)
    assert clips.clips["video"].shape == (4, 9, 3, 48, 64)
    assert clips.clips["audio"].shape == (4, 1, 7200)
    assert all(name.startswith("a.mp4 from ") for name in clips.names)


def test_fewer_than_two_clips_are_refused(training: NamedClips, others: tuple[Latents, Latents]) -> None:
    with pytest.raises(ValueError, match="at least 2 each"):
        memorisation(others[0].map(lambda value: value[:1]), training.clips, others[1], CLIP)


def test_the_command_reports_and_writes_the_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / FILE_NAME).write_text(Manifest("tiny", PRESETS["tiny"], False, "untrained", "MIT").to_json())
    monkeypatch.chdir(tmp_path)
    sizes = ["--clips", "2", "--steps", "1", "--training-clips", "4"]
    done = invoke(["memorisation", "tiny", *sizes, "--out", "found"])
    assert done.exit_code == 0, done.stderr
    assert "2 samples, 4 training clips" in done.stdout
    written = json.loads((tmp_path / "found/nearest.json").read_text())
    assert len(written["samples"]) == 2
    assert f"by chance {written['expected_by_chance']:.1f}" in done.stdout
    assert (tmp_path / "found/pairs.html").exists()

    def record(**data: object) -> None:
        (folder / "training-base.json").write_text(json.dumps({"data": data}))

    def known(*more: str) -> str:
        assert invoke(["memorisation", "tiny", *sizes, "--out", "found", *more]).exit_code == 0
        return json.loads((tmp_path / "found/nearest.json").read_text())["samples"][0]["nearest"]

    record(source="bounce", seed=77)
    assert known().startswith("bounce, seed 77,")
    assert known("--data-seed", "5").startswith("bounce, seed 5,")
    record(source="scenes", seed=0)
    refused = invoke(["memorisation", "tiny", *sizes])
    assert refused.exit_code == 2
    assert "trained on scenes, not on bounce" in refused.stderr
    refused = invoke(["memorisation", "tiny", *sizes, "--training", "films"])
    assert refused.exit_code == 2
    assert "--training and --held-out go together" in refused.stderr
