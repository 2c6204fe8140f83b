"""The ComfyUI nodes: what ComfyUI reads of them, their conversions, and their jobs on a real server.

ComfyUI itself is replaced by `stand_in`.
"""

from __future__ import annotations

import inspect
import io
import json
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from duet.client import Refused
from tests.conftest import RedisServer
from tests.duet.cli.conftest import Server, running
from tests.e2e.conftest import Serve
from tests.integrations.comfyui import stand_in
from tests.service import media as media_files
from tests.tiny_model import add_tiny_model
from tests.waiting import until

NAMES = ("DuetGenerate", "DuetSoundForVideo", "DuetVideoForSound", "DuetEdit")
WORDS = {"prompt": "", "negative_prompt": "", "model": ""}
SAMPLING = {"seed": 3, "quality": "fast"}
EDIT = {"start": 0.0, "end": 0.0, "before": 0.0, "after": 0.0, "x": 0.25, "y": 0.25, "width": 0.5, "height": 0.5}
WORKFLOW = stand_in.NODES / "example_workflows" / "duet.json"


@pytest.fixture
def comfy_ui(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> stand_in.ComfyUI:
    return stand_in.install(monkeypatch, tmp_path / "temp")


@pytest.fixture
def package(comfy_ui: stand_in.ComfyUI, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The folder of nodes, as ComfyUI imports it."""
    return stand_in.load_custom_node(monkeypatch)


@pytest.fixture
def media(package: ModuleType) -> Any:
    return package.nodes.media


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a `duet serve` with a tiny model."""
    folder = tmp_path_factory.mktemp("stack")
    models = str(add_tiny_model(folder / "models"))
    serve = Serve(folder / "data", DUET_MODELS=models, DUET_DEFAULT_MODEL="tiny")
    try:
        with serve.ready(seconds=180) as client:
            yield str(client.base_url)
    finally:
        serve.stop()


@pytest.fixture
def idle(shared_redis: RedisServer, tmp_path: Path) -> Iterator[Server]:
    """An API without a worker: its jobs stay in the queue."""
    with running(f"{shared_redis.url}?db=6", tmp_path) as server:
        yield server


def execute(package: ModuleType, name: str, **inputs: Any) -> dict[str, Any]:
    """Call a node as ComfyUI's executor does; return its results by name."""
    node = package.NODE_CLASS_MAPPINGS[name]
    return dict(zip(node.RETURN_NAMES, getattr(node(), node.FUNCTION)(**inputs), strict=True))


def widgets(node: Any) -> list[str]:
    """Names of the values that a workflow stores for a node, in their order."""
    names = []
    for inputs in node.INPUT_TYPES().values():
        for name, (kind, options) in inputs.items():
            if isinstance(kind, list) or kind in ("INT", "FLOAT", "STRING"):
                names += [name, *(["control"] if options.get("control_after_generate") else [])]
    return names


@pytest.mark.parametrize("name", NAMES)
def test_comfyui_can_read_a_node(package: ModuleType, name: str) -> None:
    node = package.NODE_CLASS_MAPPINGS[name]
    assert package.NODE_DISPLAY_NAME_MAPPINGS[name].startswith("Duet: ")
    assert len(node.RETURN_TYPES) == len(node.RETURN_NAMES)
    assert set(node.RETURN_TYPES) <= {"VIDEO", "IMAGE", "AUDIO"}
    inputs = node.INPUT_TYPES()
    assert inputs.keys() == {"required", "optional"}
    for kind, options in (each for group in inputs.values() for each in group.values()):
        assert isinstance(kind, list) or kind in {"INT", "FLOAT", "STRING", "VIDEO", "IMAGE", "AUDIO", "MASK"}
        if kind in ("INT", "FLOAT"):
            assert options["min"] <= options["default"] <= options["max"]
    json.dumps(inputs)  # /object_info sends them to the page
    # ComfyUI leaves out optional inputs that are not connected.
    inspect.signature(getattr(node, node.FUNCTION)).bind(None, **dict.fromkeys(inputs["required"]))
    inspect.signature(getattr(node, node.FUNCTION)).bind(None, **dict.fromkeys(inputs["required"] | inputs["optional"]))


def test_the_example_workflow_fits_the_nodes(package: ModuleType) -> None:
    workflow = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    nodes = {node["id"]: node for node in workflow["nodes"]}
    assert {node["type"] for node in nodes.values()} >= set(NAMES)
    for node in nodes.values():
        if kind := package.NODE_CLASS_MAPPINGS.get(node["type"]):
            assert len(node["widgets_values"]) == len(widgets(kind)), node["type"]
            assert [(each["name"], each["type"]) for each in node["outputs"]] == [
                *zip(kind.RETURN_NAMES, kind.RETURN_TYPES, strict=True)
            ]
            assert {each["name"] for each in node["inputs"]} <= {
                name for group in kind.INPUT_TYPES().values() for name in group
            }
    for link, source, output, target, given, kind in workflow["links"]:
        assert link in nodes[source]["outputs"][output]["links"]
        assert nodes[target]["inputs"][given]["link"] == link
        assert nodes[source]["outputs"][output]["type"] == nodes[target]["inputs"][given]["type"] == kind
    assert workflow["last_node_id"] == max(nodes)
    assert workflow["last_link_id"] == max(link[0] for link in workflow["links"])


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"edit": "retake sound", "start": 0.5, "end": 1.0}, None),
        ({"edit": "retake sound", "start": 0.5, "end": None}, None),
        ({"edit": "retake both", "start": 0.5, "end": 0.5}, "end: got 0.5"),
        ({"edit": "region", "start": 0.5, "end": 0.0}, None),
        ({"edit": "region", "start": 0.5, "end": 0.2}, "end: got 0.2"),
        ({"edit": "extend", "before": 0.0, "after": 0.0}, "before, after: got 0"),
        ({"edit": "extend", "before": 0.0, "after": 1.0}, None),
        ({"edit": "upscale"}, "edit: got 'upscale'"),
        ({"edit": None}, None),
    ],
)
def test_an_impossible_edit_is_refused_before_it_is_queued(
    package: ModuleType, given: dict[str, Any], problem: str | None
) -> None:
    answer = package.NODE_CLASS_MAPPINGS["DuetEdit"].VALIDATE_INPUTS(**given)
    assert answer is True if problem is None else problem in answer


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_sound_keeps_every_sample(media: Any, tmp_path: Path, channels: int) -> None:
    waveform = torch.linspace(-1.5, 1.5, channels * 1000).reshape(1, channels, 1000)
    path = media.sound_file({"waveform": waveform, "sample_rate": 22_050}, tmp_path)
    read = media.read_sound(path)
    assert read["sample_rate"] == 22_050
    assert torch.equal(read["waveform"], waveform)


@pytest.mark.parametrize(("shape", "problem"), [((2, 1, 10), "batch of 2"), ((1, 3, 10), "3 channels")])
def test_a_sound_that_duet_cannot_take_is_refused(
    media: Any, tmp_path: Path, shape: tuple[int, ...], problem: str
) -> None:
    with pytest.raises(ValueError, match=f"audio: got .*{problem}"):
        media.sound_file({"waveform": torch.zeros(shape), "sample_rate": 8000}, tmp_path)


def test_a_video_is_sent_as_it_is_unless_it_was_trimmed(media: Any, tmp_path: Path) -> None:
    (source := tmp_path / "film.mp4").write_bytes(media_files.video(1.0))
    assert media.video_file(stand_in.VideoFromFile(str(source)), tmp_path) == source
    in_memory = stand_in.VideoFromFile(io.BytesIO(source.read_bytes()))
    assert media.video_file(in_memory, tmp_path).read_bytes() == source.read_bytes()
    trimmed = media.video_file(stand_in.VideoFromFile(str(source), start_time=0.5), tmp_path)
    assert len(media.read_frames(trimmed)) == 5


def test_frames_become_a_video_at_their_rate(media: Any, tmp_path: Path) -> None:
    path = media.frames_file(torch.rand(6, 32, 64, 3), 23.976, None, tmp_path)
    assert tuple(media.read_frames(path).shape) == (6, 32, 64, 3)
    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate == pytest.approx(Fraction(24_000, 1001), rel=1e-3)


def test_a_mask_is_white_where_the_picture_is_new(media: Any, tmp_path: Path) -> None:
    mask = torch.zeros(1, 4, 6)
    mask[0, 1:3, 2:] = 1
    picture = Image.open(media.mask_file(mask, tmp_path))
    assert picture.mode == "L"
    assert np.array_equal(np.asarray(picture), mask[0].numpy() * 255)


def test_a_sound_without_frames_is_previewed_by_its_waveform(package: ModuleType) -> None:
    running_module = sys.modules[f"{package.__name__}.running"]
    picture = running_module.preview({"sprite": None, "waveform": [[-1.0, 1.0], [0.0, 0.0]]})
    assert picture.getbbox() is not None


def test_an_interrupted_queue_cancels_the_job(
    comfy_ui: stand_in.ComfyUI, package: ModuleType, idle: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DUET_URL", idle.url)
    comfy_ui.interrupt_at = 1
    with pytest.raises(stand_in.InterruptProcessingException):
        execute(package, "DuetGenerate", **SAMPLING, duration=0.0, **WORDS)
    (job,) = httpx.get(f"{idle.url}/jobs", trust_env=False, timeout=120).json()["data"]
    assert job["status"] == "canceled"
    assert comfy_ui.updates[0][:2] == (0, 1000)


def submitted(
    comfy_ui: stand_in.ComfyUI, package: ModuleType, server: Server, name: str, **inputs: Any
) -> dict[str, Any]:
    """The job that a node submits; it is interrupted once it waits."""
    comfy_ui.updates.clear()
    comfy_ui.interrupt_at = 1
    with pytest.raises(stand_in.InterruptProcessingException):
        execute(package, name, **SAMPLING, **inputs, **WORDS)
    job: dict[str, Any] = httpx.get(f"{server.url}/jobs?limit=1", trust_env=False, timeout=120).json()["data"][0]
    assert job["status"] == "canceled"
    return job


def test_the_widgets_become_the_parameters_of_the_job(
    comfy_ui: stand_in.ComfyUI, package: ModuleType, idle: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DUET_URL", idle.url)
    (source := tmp_path / "film.mp4").write_bytes(media_files.video(2.0, sound=True))
    film = stand_in.VideoFromFile(str(source))

    def edit(kind: str, **inputs: Any) -> dict[str, Any]:
        job = submitted(comfy_ui, package, idle, "DuetEdit", video=film, edit=kind, **EDIT | inputs)
        return {name: value for name, value in job["params"].items() if name in ("retake", "extend", "region")}

    window = {"start": 0.5, "duration": 1.0, "mix": "under", "frame_rate": 10.0}
    of_frames = submitted(
        comfy_ui, package, idle, "DuetSoundForVideo", images=torch.rand(20, 32, 48, 3), **window | {"mix": "replace"}
    )
    assert (of_frames["kind"], of_frames["params"]["seed"], of_frames["params"]["quality"]) == ("v2a", 3, "fast")
    mixed = submitted(comfy_ui, package, idle, "DuetSoundForVideo", video=film, **window)
    assert mixed["params"] | {"start": 0.5, "duration": 1.0, "mix": "under"} == mixed["params"]
    by_sound = submitted(comfy_ui, package, idle, "DuetVideoForSound", video=film, start=0.0, duration=0.0)
    assert by_sound["kind"] == "a2v"

    assert edit("retake both", start=0.5, end=1.0) == {"retake": {"audio": [[0.5, 1.0]], "video": [[0.5, 1.0]]}}
    assert edit("extend", before=0.5) == {"extend": {"before": 0.5}}
    rectangle = edit("region", start=0.5)["region"]
    assert rectangle | {"x": 0.25, "y": 0.25, "width": 0.5, "height": 0.5, "start": 0.5} == rectangle
    mask = torch.zeros(1, 48, 64)
    mask[:, 24:] = 1
    assert "x" not in edit("region", mask=mask)["region"]


def test_an_interruption_before_the_submission_leaves_no_job(
    comfy_ui: stand_in.ComfyUI, package: ModuleType, idle: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DUET_URL", idle.url)
    comfy_ui.interrupt_at = 0
    with pytest.raises(stand_in.InterruptProcessingException):
        execute(package, "DuetGenerate", **SAMPLING, duration=0.0)
    assert httpx.get(f"{idle.url}/jobs", trust_env=False, timeout=120).json()["data"] == []


def test_what_cannot_work_is_refused_with_a_reason(
    package: ModuleType, idle: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DUET_URL", idle.url)
    with pytest.raises(Refused, match="knows no words"):
        execute(package, "DuetGenerate", **SAMPLING, duration=0.0, prompt="rain")
    with pytest.raises(ValueError, match="video, images: got neither"):
        execute(package, "DuetSoundForVideo", **SAMPLING, start=0.0, duration=0.0, mix="replace", frame_rate=24.0)
    film = stand_in.VideoFromFile(str(tmp_path / "none.mp4"))
    with pytest.raises(ValueError, match="mask: allowed only"):
        execute(package, "DuetEdit", video=film, edit="extend", mask=torch.ones(1, 2, 2), **SAMPLING, **EDIT)


@pytest.mark.slow
def test_the_nodes_make_what_they_say(
    comfy_ui: stand_in.ComfyUI, package: ModuleType, stack: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DUET_URL", stack)
    made = execute(package, "DuetGenerate", **SAMPLING, duration=0.0, **WORDS)
    frames, height, width, colours = made["images"].shape
    assert colours == 3
    assert made["images"].dtype == torch.float32
    assert 0 <= made["images"].min() <= made["images"].max() <= 1
    assert made["audio"]["waveform"].ndim == 3
    values = [value for value, _, _ in comfy_ui.updates]
    assert values == sorted(values)
    assert values[-1] == 1000

    window = {"start": 0.0, "duration": 0.0}
    sounding = execute(
        package, "DuetSoundForVideo", **SAMPLING, **window, mix="under", frame_rate=24.0, video=made["video"], **WORDS
    )
    assert torch.equal(sounding["video"].get_components().images, made["images"])

    seen = execute(package, "DuetVideoForSound", **SAMPLING, **window, audio=sounding["audio"], **WORDS)
    assert seen["images"].shape[1:] == (height, width, 3)
    kept, given = seen["audio"]["waveform"], sounding["audio"]["waveform"]
    assert kept.shape[-1] == given.shape[-1]

    longer = execute(
        package, "DuetEdit", video=made["video"], edit="extend", **SAMPLING, **EDIT | {"after": 0.5}, **WORDS
    )
    assert len(longer["video"].get_components().images) > frames
    assert not [path for path in comfy_ui.temporary.iterdir() if path.name != "duet"], "uploads are removed"


@pytest.mark.slow
def test_a_job_that_runs_shows_previews_and_can_be_canceled(
    comfy_ui: stand_in.ComfyUI, package: ModuleType, stack: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DUET_URL", stack)
    arguments = package.nodes._arguments
    long = {"steps": 500}  # about as many as the service takes for so many windows
    monkeypatch.setattr(package.nodes, "_arguments", lambda *given, **named: arguments(*given, **named) | long)
    comfy_ui.interrupt_at_preview = True
    with pytest.raises(stand_in.InterruptProcessingException):
        execute(package, "DuetGenerate", seed=1, quality="best", duration=30.0, **WORDS)
    (preview,) = [preview for _, _, preview in comfy_ui.updates if preview is not None]
    assert preview[0] == "JPEG"
    assert preview[1].size[0] > 1

    def ended() -> str | None:
        (job,) = httpx.get(f"{stack}/jobs?limit=1", trust_env=False, timeout=120).json()["data"]
        return job["status"] if job["completed_at"] else None

    assert until(ended, "the job has ended", 60) == "canceled"
