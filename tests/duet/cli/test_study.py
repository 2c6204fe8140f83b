"""`duet study` on a real Redis and a real folder, from clips to the report."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest

from duet.cli import app, output, study
from model.evaluation.study_clips import TARGET, measure
from model.media.encode import write_clip
from service.settings import Settings
from service.storage import open_storage
from service.study.record import Answers, Vote, clip_key
from service.study.store import StudyStore


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    """The commands use the tests' Redis and folder."""
    monkeypatch.setenv("DUET_REDIS_URL", settings.redis_url)
    monkeypatch.setenv("DUET_DATA", str(settings.data))
    monkeypatch.setenv("DUET_PUBLIC_URL", "https://duet.example/av")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two clips of each of two labels, of different loudness, as the option takes them."""
    top = tmp_path_factory.mktemp("clips")
    time = np.arange(12_800) / 16_000
    for label, level in (("real", 0.4), ("ours", 0.02)):
        (top / label).mkdir()
        for number in range(2):
            sound = level * np.sin(2 * np.pi * (300 + 100 * number) * time)
            frames = np.full((8, 32, 32, 3), 60 * number + 40, np.uint8)
            write_clip(top / label / f"{label}-{number}.mp4", frames, 10, sound[None], 16_000, f"seed {number}")
        (top / label / "manifest.json").write_text("{}")
    return [f"{label}={top / label}" for label in ("real", "ours")]


def invited(capsys: pytest.CaptureFixture[str], folders: list[str], **options: int) -> list[str]:
    """Create the study `pilot`; return the links."""
    study.create("pilot", clips=folders, **({"raters": 3, "checks": 1} | options))
    return capsys.readouterr().out.split()


def vote(studies: StudyStore, number: int, passes: bool = True, submits: bool = True) -> None:
    """A rater finds real clips excellent and others poor, and is right about them."""
    made = studies.get("pilot")
    rater = made.raters[number]
    seat = studies.seat(rater.token)
    clips = {clip.id: clip for clip in made.clips}
    for clip in seat.clips:
        answers = Answers(5, 5, 5, True) if clips[clip].label == "real" else Answers(2, 2, 2, False)
        expected = clips[clip].expected
        if expected is not None:
            answers = expected if passes else Answers(*(6 - expected.video, 3, 3), expected.real)
        studies.vote(rater.token, seat, clip, Vote(answers, 1))
    if submits:
        studies.submit(rater.token, seat)


def test_a_study_from_clips_to_report_and_deletion(
    here: None, studies: StudyStore, settings: Settings, folders: list[str], capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:  # fmt: skip
    links = invited(capsys, folders, raters=4)
    made, storage = studies.get("pilot"), open_storage(settings)
    assert links == [f"https://duet.example/av/study/{rater.token}" for rater in made.raters]
    assert [(clip.label, clip.source) for clip in made.clips] == [
        ("real", "real-0.mp4"), ("real", "real-1.mp4"), ("ours", "ours-0.mp4"), ("ours", "ours-1.mp4"), ("", "check 1"),
    ]  # fmt: skip
    files = [clip_key(made.folder, clip.id) for clip in made.clips]
    assert storage.list(f"{made.folder}/") == sorted(files)
    for key in files:
        assert measure(settings.data / "storage" / key).lufs == pytest.approx(TARGET, abs=0.3)
        assert b"seed" not in b"".join(storage.read(key))

    vote(studies, 0)
    vote(studies, 1)
    vote(studies, 2, passes=False)
    vote(studies, 3, submits=False)
    study.report("pilot", out=tmp_path / "out")
    said = capsys.readouterr().out
    assert re.search(r"real .* 2 .* 4 .* 5\.00 \(5\.00 … 5\.00\)", said)
    assert "Raters who count: 2; excluded for failed attention checks: 1; not submitted: 1; links not used: 0." in said
    assert "video 1.00" in said
    with (tmp_path / "out" / "opinions.csv").open(encoding="utf-8") as file:
        rows = {(row["label"], row["measure"]): row for row in csv.DictReader(file)}
    assert float(rows["ours", "mos_match"]["value"]) == 2
    assert float(rows["ours", "judged_real"]["value"]) == 0
    assert float(rows["ours", "right"]["value"]) == 1
    with (tmp_path / "out" / "ratings.csv").open(encoding="utf-8") as file:
        ratings = list(csv.DictReader(file))
    assert len(ratings) == 4 * 5
    assert {row["standing"] for row in ratings} == {"counted", "failed", "unsubmitted"}
    assert (tmp_path / "out" / "opinions.png").read_bytes().startswith(b"\x89PNG")
    study.report("pilot", allow=1, unsubmitted=True)
    assert "Raters who count: 4;" in capsys.readouterr().out

    study.close("pilot")
    study.status()
    assert re.search(r"pilot .* closed .* 5 .* 4 .* 3 ", capsys.readouterr().out)
    study.delete("pilot")
    assert studies.names() == []
    assert storage.list(f"{made.folder}/") == []


def test_the_status_shows_who_has_rated_what(
    here: None, studies: StudyStore, folders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    links = invited(capsys, folders, repeats=1)
    vote(studies, 1)
    study.status("pilot")
    lines = capsys.readouterr().out.splitlines()
    raters = studies.get("pilot").raters
    assert [line for line in lines if "https://" in line] == [
        f"{rater.id}  {link}" for rater, link in zip(raters, links, strict=True)
    ]
    table = [line for line in lines if "https://" not in line]
    standings = [next(line for line in table if rater.id in line) for rater in raters]
    assert ["counted" in line for line in standings] == [False, True, False]
    assert sum(len(rater.clips) - 1 for rater in studies.get("pilot").raters) == 4, "one rater for each clip"


def test_a_study_without_real_clips_is_warned_about(
    here: None, folders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    study.create("pilot", clips=folders[:1], raters=1, checks=0)
    assert study.NO_REAL not in capsys.readouterr().err
    study.create("other", clips=folders[1:], raters=1, checks=0)
    assert study.NO_REAL in capsys.readouterr().err


def test_links_of_this_machine_are_pointed_out(
    here: None, folders: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study.create("pilot", clips=folders[:1], raters=1, checks=0)
    assert "DUET_PUBLIC_URL" not in capsys.readouterr().err
    monkeypatch.delenv("DUET_PUBLIC_URL")
    monkeypatch.setenv("DUET_PORT", "9100")
    study.create("other", clips=folders[:1], raters=1, checks=0)
    shown = capsys.readouterr()
    assert "http://127.0.0.1:9100, which works on this machine only" in shown.err
    assert shown.out.startswith("http://127.0.0.1:9100/study/")


def test_links_are_whole_on_a_narrow_terminal(
    here: None, folders: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    links = invited(capsys, folders)
    monkeypatch.setattr(output, "PIPED_WIDTH", 80)
    study.status("pilot")
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines() if "https://" in line] == links


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["Pilot", "--clips", "a=.", "--raters", "2"], "lower-case"),
        (["_pilot", "--clips", "a=.", "--raters", "2"], "begins with a letter"),
        (["pilot", "--clips", "here", "--raters", "2"], "LABEL=FOLDER"),
        (["pilot", "--clips", "a=.", "--clips", "a=.", "--raters", "2"], "given twice"),
        (["pilot", "--clips", "a=/nowhere", "--raters", "2"], "no folder"),
        (["pilot", "--clips", "a=.", "--raters", "2", "--repeats", "3"], "--repeats"),
        (["pilot", "--clips", "a=.", "--raters", "2", "--real", "b"], "--real"),
        (["pilot", "--clips", "a=.", "--raters", "0"], "--raters"),
    ],
)
def test_a_wrong_command_line_is_explained(
    here: None, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        app(["study", "create", *options])
    assert end.value.code in (1, 2)
    assert message in capsys.readouterr().err


def test_clips_that_cannot_be_used_are_named_and_nothing_stays(
    here: None, settings: Settings, folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    write_clip(tmp_path / "short.mp4", np.zeros((2, 16, 16, 3), np.uint8), 10, np.zeros((1, 3200)), 16_000, "")
    with pytest.raises(SystemExit):
        study.create("pilot", clips=[*folders, f"bad={tmp_path}"], raters=2)
    said = capsys.readouterr().err
    assert "broken.mp4" in said
    assert re.search(r"short\.mp4: lasts 0\.\d+ s", said)
    assert not (settings.data / "storage").exists() or not list((settings.data / "storage").rglob("*.mp4"))


def test_a_name_that_is_taken_keeps_the_first_study(
    here: None, studies: StudyStore, settings: Settings, folders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    invited(capsys, folders)
    before = studies.get("pilot")
    with pytest.raises(SystemExit):
        study.create("pilot", clips=folders, raters=2)
    assert "already" in capsys.readouterr().err
    assert studies.get("pilot") == before
    for command in (study.report, study.close, study.delete, study.status):
        with pytest.raises(SystemExit):
            command("unknown")
        assert "Studies here: pilot." in capsys.readouterr().err
    with pytest.raises(SystemExit):
        study.report("pilot")
    assert "no ratings to count yet" in capsys.readouterr().err


def test_without_redis_the_command_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DUET_REDIS_URL", f"unix://{tmp_path}/none.sock")
    with pytest.raises(SystemExit):
        study.status(data=tmp_path)
    assert "--data" in capsys.readouterr().err
