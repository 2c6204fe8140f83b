"""`duet generate`, `v2a` and `a2v` with a server and without a terminal: output, files and exit status."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from duet.cli.clips import score_lines
from duet.cli.job_spec import spec_from_manifest
from tests import demo_model
from tests.command_line import invoke
from tests.duet.cli.conftest import Cli, Server, running
from tests.service import media
from tests.tiny_model import add_words_model
from tests.waiting import until


def made_by(path: Path) -> dict[str, Any]:
    """Job and output index that the fake worker wrote into the file."""
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def stderr_of(process: subprocess.Popen[bytes], text: str) -> str:
    """Read standard error of the process until it contains `text`."""
    assert process.stderr is not None
    said = ""
    while text not in said:
        line = process.stderr.readline().decode()
        assert line, f"it ended without {text!r}:\n{said}"
        said += line
    return said


def test_prints_the_path_and_nothing_else(duet: Cli, server: Server) -> None:
    done = duet("generate", "-o", "clip.mp4", "--seed", 7)
    assert (done.returncode, done.stdout) == (0, "clip.mp4\n"), done.stderr
    assert duet.files() == ["clip.mp4"]
    job = server.store.get(made_by(duet.folder / "clip.mp4")["job"])
    assert (job.kind, job.params.seed) == ("generate", 7)
    assert f"{job.id} accepted, seed 7" in done.stderr
    assert "\x1b" not in done.stderr, "no terminal, no control codes"


def test_every_parameter_reaches_the_server(duet: Cli, server: Server) -> None:
    done = duet(
        *("generate", "--json", "--seed", 3, "-n", 2, "--sampler", "ddim", "--steps", 9, "--spacing", "uniform"),
        *("--eta", 0.5, "--guidance", "decoupling", "--guidance-scale", 1.5, "--super-resolution"),
        *("--sr-sampler", "ddim", "--sr-steps", 25, "--priority", "high", "--model", "demo"),
        *("--metadata", "a=b=c", "--metadata", "empty="),
    )
    assert done.returncode == 0, done.stderr
    job = json.loads(done.stdout)
    wanted = {"seed": 3, "num_outputs": 2, "sampler": "ddim", "steps": 9, "spacing": "uniform", "eta": 0.5}
    wanted |= {"guidance": "decoupling", "guidance_scale": 1.5, "super_resolution": True, "sr_sampler": "ddim"}
    assert job["params"] == wanted | {"sr_steps": 25, "priority": "high"}
    assert (job["model"], job["metadata"], job["status"]) == ("demo", {"a": "b=c", "empty": ""}, "completed")
    assert job["saved"] == ["generate-3.mp4", "generate-3-1.mp4"] == sorted(duet.files(), reverse=True)
    assert [made_by(duet.folder / name)["index"] for name in job["saved"]] == [0, 1]


def test_the_upload_keeps_its_name_and_the_clip_is_named_after_it(duet: Cli, server: Server) -> None:
    (duet.folder / "Strand ä.mp4").write_bytes(media.video(4.0))
    (duet.folder / "song.wav").write_bytes(media.sound())
    done = duet("v2a", "Strand ä.mp4", "--start", 0.5, "--guidance", "replacement")
    assert (done.returncode, done.stdout) == (0, "Strand ä-v2a.mp4\n"), done.stderr
    job = server.store.get(made_by(duet.folder / "Strand ä-v2a.mp4")["job"])
    assert job.input is not None
    assert (job.input.filename, job.input.used.start) == ("Strand ä.mp4", 0.5)
    done = duet("a2v", "song.wav", "--no-super-resolution", "-o", "seen.wav")
    assert (done.returncode, done.stdout) == (0, "seen.wav\n"), done.stderr
    assert not server.store.get(made_by(duet.folder / "seen.wav")["job"]).params.super_resolution


def test_the_unused_rest_of_a_long_upload_is_named(shared_redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(media.video(seconds=4.25, fps=20))
    said = "Only the first 2 s of 4.25 s are used: DUET_MAX_OUTPUT_S is the limit.\n"
    with running(shared_redis_url, tmp_path, max_output_s=2.0) as server:
        server.work(0.02)
        duet = Cli(tmp_path, DUET_URL=server.url)
        done = duet("v2a", "film.mp4", "-o", "long.mp4")
        assert (done.returncode, done.stdout) == (0, "long.mp4\n"), done.stderr
        assert said in done.stderr
        done = duet("v2a", "film.mp4", "-o", "short.mp4", "--duration", 2)
        assert done.returncode == 0, done.stderr
        assert "Only" not in done.stderr


def test_the_seed_that_the_server_draws_names_the_clip(duet: Cli, server: Server) -> None:
    done = duet("generate", "--all")
    assert done.returncode == 0, done.stderr
    seed = server.store.get(made_by(duet.folder / done.stdout.splitlines()[0])["job"]).params.seed
    stem = f"generate-{seed}"
    assert done.stdout.splitlines() == [f"{stem}.mp4", f"{stem}.wav", f"{stem}.manifest.json"]
    assert duet.files() == sorted(done.stdout.splitlines())


def test_existing_files_are_replaced_only_with_force(duet: Cli, server: Server) -> None:
    (duet.folder / "clip-1.mp4").write_text("mine")
    done = duet("generate", "-o", "clip.mp4", "-n", 2)
    assert (done.returncode, done.stdout) == (1, "")
    assert "clip-1.mp4 already exists" in done.stderr
    assert "accepted" not in done.stderr, "found before a job was made of it"
    assert (duet.folder / "clip-1.mp4").read_text() == "mine"
    assert duet("generate", "-o", "clip.mp4", "-n", 2, "--force").stdout == "clip.mp4\nclip-1.mp4\n"
    assert made_by(duet.folder / "clip-1.mp4")["index"] == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["generate", "--steps", "0"], ["--steps", "Must be >= 1"]),
        (["generate", "--sampler", "euler"], ["--sampler", '"dpmpp_2m", "dpmpp_3m"']),
        (["generate", "--metadata", "novalue"], ["--metadata", "KEY=VALUE"]),
        (["generate", "-o", "clip.avi"], ["--output", ".mp4 or .wav"]),
        (["generate", "-o", "nowhere/clip.mp4"], ["--output", "no folder nowhere"]),
        (["generate", "--url", "ftp://there"], ["--url", "http:// or https://"]),
        (["v2a", "missing.mov"], ["missing.mov", "does not exist"]),
        (["v2a"], ["FILE"]),
        (["generate", "--local", "--priority", "high"], ["--local", "priority"]),
    ],
)
def test_a_wrong_command_line_names_option_and_limit(arguments: list[str], said: list[str]) -> None:
    done = invoke(arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert all(each.lower() in done.stderr.lower() for each in said), done.stderr


def test_a_refused_request_names_field_and_limit(duet: Cli) -> None:
    done = duet("generate", "--order", 2)
    assert (done.returncode, done.stdout) == (4, "")
    assert "order is a parameter of dpm_solver" in done.stderr
    assert "invalid_parameter" in done.stderr
    (duet.folder / "text.mp4").write_text("not a film")
    done = duet("v2a", "text.mp4")
    assert done.returncode == 4
    assert "file: " in done.stderr
    assert "mp4" in done.stderr
    assert duet("cancel", "job_00000000000000000000000000").returncode == 4


def test_an_unreachable_server_has_its_own_status(duet: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    done = duet("models", "--url", f"http://127.0.0.1:{port}")
    assert (done.returncode, done.stdout) == (3, "")
    assert f"Cannot reach the server at http://127.0.0.1:{port}" in done.stderr
    assert "duet serve" in done.stderr


def test_a_failed_job_says_why(duet: Cli) -> None:
    done = duet("generate", "--metadata", "behaviour=raise", "--json")
    assert done.returncode == 1
    assert "failed: the worker could not finish the job" in done.stderr
    assert json.loads(done.stdout)["error"]["code"] == "internal_error"
    assert duet.files() == []


def test_ctrl_c_cancels_a_running_job(idle_server: Server, tmp_path: Path) -> None:
    idle_server.work(0.6)
    process = Cli(tmp_path, DUET_URL=idle_server.url).start("generate", "-o", "clip.mp4")
    said = stderr_of(process, "base 1/5")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, b"")
    job_id = next(word for word in said.split() if word.startswith("job_"))
    assert f"{job_id} is canceled" in err.decode() or f"{job_id} stops within a step" in err.decode()
    assert b"Traceback" not in err
    until(lambda: idle_server.store.get(job_id).status == "canceled", "it is canceled at the server", 20)
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_cancels_a_queued_job(idle_server: Server, tmp_path: Path) -> None:
    process = Cli(tmp_path, DUET_URL=idle_server.url).start("generate")
    said = stderr_of(process, "in the queue, next")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    job_id = next(word for word in said.split() if word.startswith("job_"))
    assert f"{job_id} is canceled" in err.decode()
    assert idle_server.store.get(job_id).status == "canceled"


def test_a_second_ctrl_c_exits_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:  # takes the request and never answers
        process = Cli(tmp_path, DUET_URL=f"http://127.0.0.1:{mute.getsockname()[1]}").start("generate")
        connection, _ = mute.accept()
        assert connection.recv(65536).startswith(b"POST /generate")
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert process.poll() is None, "it waits to learn which job to cancel"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=10)
        connection.close()
    assert process.returncode == 130
    assert b"Interrupted" in err
    assert b"Traceback" not in err


def test_jobs_are_listed_shown_canceled_and_saved(idle_server: Server, tmp_path: Path) -> None:
    duet = Cli(tmp_path, DUET_URL=idle_server.url)
    process = duet.start("generate", "--seed", 1)
    job_id = next(word for word in stderr_of(process, "queue").split() if word.startswith("job_"))
    row = duet("jobs").stdout.rstrip("\n").split("\t")
    assert row[:6] == [job_id, "generate", "queued", "0%", "demo", "1"]
    assert json.loads(duet("jobs", "--json", "--status", "queued", "--kind", "generate").stdout)[0]["id"] == job_id
    assert duet("jobs", "--status", "completed").stdout == ""
    idle_server.work(0.02)
    assert process.wait(30) == 0
    done = duet("save", job_id, "-o", "again.mp4")
    assert (done.returncode, done.stdout) == (0, "again.mp4\n"), done.stderr
    assert (tmp_path / "again.mp4").read_bytes() == (tmp_path / "generate-1.mp4").read_bytes()
    assert duet("jobs", job_id).stdout.split("\t")[2:4] == ["completed", "100%"]
    done = duet("cancel", job_id)
    assert done.returncode == 4
    assert "already_ended" in done.stderr


def test_models_are_listed_with_their_clips(duet: Cli) -> None:
    text = duet("models").stdout
    assert "demo (default" in text
    small, large = (f"{width}×{height}" for width, height in (demo_model.SMALL, demo_model.LARGE))
    clip = demo_model.CLIP
    shown = f"{clip.frames} frames of {small} or {large} at {clip.fps} Hz, {clip.duration:g} s"
    assert f"{shown}, sound at {clip.sample_rate} Hz" in text
    (model,) = json.loads(duet("models", "--json").stdout)
    assert model["name"] == "demo"
    near = model["distances"]["generate"]["tuned 6"]
    assert f"many steps by: fast: picture {near['video']:.2f}, sound {near['audio']:.2f}; " in text
    assert "; best: picture " in text


def test_a_key_is_taken_from_the_environment_and_never_shown(
    shared_redis_url: str, tmp_path: Path, run_with_keys: Callable[[str, Path], Server]
) -> None:
    server = run_with_keys(shared_redis_url, tmp_path / "server")
    folder = tmp_path / "here"
    folder.mkdir()
    without = Cli(folder, DUET_URL=server.url)("jobs")
    assert without.returncode == 4
    assert "DUET_KEY" in without.stderr
    secret = "duet_alice-key-of-the-tests"
    assert Cli(folder, DUET_URL=server.url, DUET_KEY=secret)("jobs").returncode == 0
    wrong = Cli(folder, DUET_URL=server.url, DUET_KEY="duet_nobodys")("jobs", "--help")
    assert "duet_nobodys" not in wrong.stdout


def test_a_prompt_reaches_the_server(shared_redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "beach.mp4").write_bytes(media.video(2.0, sound=True))
    words = {"prompt": "heavy rain", "negative_prompt": "wind", "prompt_scale": 4.0}
    given = ("--prompt", "heavy rain ", "--negative-prompt", "wind", "--prompt-scale", "4", "--json")
    film = str(tmp_path / "beach.mp4")
    models = add_words_model(tmp_path / "models")
    described = models / "words" / "model.json"
    content = json.loads(described.read_text())
    content["text"]["guided_share"] = 0.5
    described.write_text(json.dumps(content))
    with running(shared_redis_url, tmp_path, models=models, default_model="words") as server:
        server.work(0.02)
        env = {"DUET_URL": server.url}
        for kind, rest in {"generate": [], "v2a": [film], "a2v": [film], "edit": [film, "--extend", "1"]}.items():
            done = invoke([kind, *rest, *given, "-o", str(tmp_path / f"{kind}.mp4")], env)
            assert done.exit_code == 0, done.stderr
            assert json.loads(done.stdout)["params"].items() >= words.items(), kind
        refused = invoke(["generate", "--model", "tiny", "--prompt", "rain"], env)
        assert (refused.exit_code, refused.stdout) == (4, "")
        assert "the model tiny knows no words" in refused.stderr
        listed = invoke(["models"], env).stdout
        assert "prompts: en, such as: heavy rain; a fire near by, at night" in listed
        assert "prompt scale: 2.5, in the noisier 50 %" in listed


def test_the_parameters_of_a_manifest_are_used_again(tmp_path: Path) -> None:
    words = {"prompt": "heavy rain", "negative_prompt": None, "prompt_scale": 2.5, "sr_start": 500}
    manifest = {"kind": "generate", "params": {"seed": 1, "num_outputs": 2, **words}, "output": {"index": 1}}
    manifest |= {"model": {"name": "words", "weights_sha256": "ab"}, "input": None}
    (tmp_path / "clip.manifest.json").write_text(json.dumps(manifest))
    spec = spec_from_manifest(tmp_path / "clip.manifest.json", None)
    words |= {"seed": 1, "model": "words", "num_outputs": 2}
    assert spec.params == {name: value for name, value in words.items() if name != "negative_prompt"}


def test_a_film_in_place_of_a_manifest_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(media.video(1.0))
    done = invoke(["generate", "--from", str(tmp_path / "clip.mp4")])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "is no text: give the manifest.json of a clip" in " ".join(done.stderr.replace("│", " ").split())
    assert len(done.stderr) < 1000


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--prompt", "rain"), "prompt: the model tiny knows no words"),
        (("--negative-prompt", "rain"), "negative_prompt: the model tiny knows no words"),
        (("--prompt", "rain\nsnow"), "--prompt. must be one line of text without control characters"),
        (("--prompt", "x" * 301), "--prompt. must have at most 300 characters; got 301"),
        (("--prompt", "rain", "--prompt-scale", "21"), "--prompt-scale"),
    ],
)
def test_impossible_words_end_a_local_run(tiny_models: Path, given: tuple[str, ...], said: str) -> None:
    done = invoke(["generate", "--local", "--model", "tiny", *given], {"DUET_MODELS": str(tiny_models)})
    assert done.exit_code == 2
    assert said in done.stderr


def test_scores_are_said_in_a_line_for_each_output() -> None:
    scores = {"sync": 0.8, "av_align": None, "lag": -0.1}
    none = dict.fromkeys(scores)
    outputs = [{"index": 2, "scores": scores}, {"index": 0, "scores": none}]
    assert score_lines({"params": {}, "outputs": outputs}) == ["output 2: sync 0.80, av_align none, lag -0.10 s"]
    job = {
        "params": {"rank_by": "sync"},
        "outputs": outputs,
        "dropped": [{"index": 1, "scores": scores | {"sync": 0.5}}],
    }
    assert score_lines(job) == [
        "By sync, best first: kept outputs 2, 0; not kept 1.",
        "output 2: sync 0.80, av_align none, lag -0.10 s",
        "output 1: sync 0.50, av_align none, lag -0.10 s",
    ]
    assert score_lines({"params": {}, "outputs": [{"index": 0}]}) == [], "an older server"
    silent = {"index": 0, "scores": none, "scores_reason": "the sound is silent"}
    assert score_lines({"params": {}, "outputs": [silent]}) == ["output 0: no scores (the sound is silent)"]


def test_a_mix_reaches_the_server(duet: Cli, server: Server) -> None:
    (duet.folder / "film.mp4").write_bytes(media.video(sound=True))
    done = duet("v2a", "film.mp4", "--mix", "own=-6,new=1.5", "--loudness", -20, "--json", "--force")
    assert done.returncode == 0, done.stderr
    params = json.loads(done.stdout)["params"]
    assert (params["mix"], params["loudness"]) == ({"own": -6.0, "new": 1.5}, -20.0)


@pytest.mark.parametrize("mix", ["louder", "own=-6", "own=-61,new=0", "own=x,new=0"])
def test_a_mix_that_is_none_ends_the_command(tmp_path: Path, mix: str) -> None:
    (tmp_path / "film.mp4").write_bytes(b"")
    done = invoke(["v2a", str(tmp_path / "film.mp4"), "--mix", mix])
    assert done.exit_code == 2
    assert "--mix" in done.stderr


@pytest.mark.parametrize(
    ("options", "edit"),
    [
        (
            ("--retake", "audio=0.2-0.5", "--retake", "video=0-0.3"),
            {"retake": {"audio": [[0.2, 0.5]], "video": [[0.0, 0.3]]}},
        ),
        (("--extend", 2, "--extend-before", 0.5), {"extend": {"before": 0.5, "after": 2.0}}),
        (
            ("--region", "0.5,0.5,0.3,0.3@0-1", "--new-sound", "--mix", "under"),
            {"region": {"x": 0.5, "y": 0.5, "width": 0.3, "height": 0.3, "start": 0.0, "end": 1.0, "audio": "new"}},
        ),
        (("--mask", "mask.png", "--region", "0-1"), {"region": {"start": 0.0, "end": 1.0, "audio": "keep"}}),
    ],
)
def test_an_edit_reaches_the_server(duet: Cli, server: Server, options: tuple[Any, ...], edit: dict[str, Any]) -> None:
    (duet.folder / "film.mp4").write_bytes(media.video(seconds=2.0, sound=True))
    (duet.folder / "mask.png").write_bytes(media.png())
    done = duet("edit", "film.mp4", *options, "--json", "--force")
    assert done.returncode == 0, done.stderr
    job = json.loads(done.stdout)
    assert job["saved"] == ["film-edit.mp4"]
    ((name, value),) = edit.items()
    assert job["params"][name] == value


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ((), "exactly one kind of edit"),
        (("--extend", "1", "--retake", "audio=0-1"), "exactly one kind of edit"),
        (("--retake", "sound=0-1"), "--retake"),
        (("--retake", "audio=1"), "--retake"),
        (("--region", "1,2@0-1"), "--region"),
        (("--extend", "1", "--new-sound"), "--new-sound"),
    ],
)
def test_an_edit_that_is_none_ends_the_command(tmp_path: Path, options: tuple[str, ...], named: str) -> None:
    (tmp_path / "film.mp4").write_bytes(b"")
    done = invoke(["edit", str(tmp_path / "film.mp4"), *options])
    assert (done.exit_code, named in done.stderr) == (2, True), done.stderr
