"""Builds the sdist and the wheel, installs the wheel into an empty environment, and uses it there.

    python -m tests.wheel        # `make test-wheel`, part of .ci/run; prints each step and its seconds

The environment and the working directory are outside the checkout. Nothing is downloaded: the environment gets links to
the installed files of the packages that the wheel declares, and of those that they declare in turn. A package that is
used but not declared is missing there. Duet itself comes from the wheel only: the program checks from where each of its
four packages is imported. What pip would select from an index is not tested.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import venv
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.parser import BytesParser
from importlib.metadata import distribution
from pathlib import Path

import av
from packaging.markers import default_environment
from packaging.requirements import Requirement
from uv import find_uv_bin

from tests.compose.requirements import closure
from tests.e2e.conftest import Serve

ROOT = Path(__file__).parents[1]
UV = find_uv_bin()
PACKAGES = ("duet", "model", "service", "workers")
OF_THE_SDIST = {"LICENSE", "MANIFEST.in", "PKG-INFO", "README.md", "pyproject.toml", "setup.cfg"}
"""Its files beside the packages and the egg-info folder."""

USE = """
import importlib, json, sys
from duet import Duet
with Duet(sys.argv[1]) as duet:
    duet.generate(seed=7, steps=4, sr_steps=2).wait(timeout=240).save("clip.mp4")
print(json.dumps({name: importlib.import_module(name).__file__ for name in sys.argv[2:]}))
"""


def main() -> None:
    os.environ.pop("PYTHONPATH", None)  # it would put the checkout before the wheel
    with tempfile.TemporaryDirectory(prefix="duet-wheel-") as name:
        folder = Path(name)
        with _step("build the sdist, and the wheel from it"):
            sources = _copy_sources(folder / "sources")
            wheel, sdist = _build(sources, folder / "dist")
        with _step("compare their files with the repository's"):
            _check_contents(sources, wheel, sdist)
        with _step("build the wheel from the repository: the same"):
            again, _ = _build(sources, folder / "direct", "--wheel")
            assert _hashes(again) == _hashes(wheel), "the sdist builds another wheel than the repository does"
        with _step("install the wheel into an empty environment"):
            programs = _install(wheel, folder / "environment")
        with _step("duet serve; generate a clip with the Python client; stop"):
            _use(programs, folder)


@contextmanager
def _step(title: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    print(f"{time.monotonic() - began:5.1f} s  {title}", flush=True)


def _copy_sources(folder: Path) -> Path:
    """Copy the files that git tracks or would add; setuptools would also pack what earlier builds left behind."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def _build(sources: Path, out: Path, *options: str) -> tuple[Path, Path | None]:
    """Return the wheel and the sdist (None with `--wheel`)."""
    command = [UV, "build", "--quiet", "--offline", "--no-build-isolation", "--python", sys.executable, *options]
    subprocess.run([*command, "--out-dir", str(out), str(sources)], check=True)
    return next(out.glob("*.whl")), next(out.glob("*.tar.gz"), None)


def _check_contents(sources: Path, wheel: Path, sdist: Path | None) -> None:
    """Both hold all files of the four packages and no other package."""
    expected = {
        str(path.relative_to(sources)) for name in PACKAGES for path in (sources / name).rglob("*") if path.is_file()
    }
    assert "model/weights/demo/base.safetensors" in expected
    with zipfile.ZipFile(wheel) as file:
        packed = {name for name in file.namelist() if ".dist-info/" not in name}
    assert packed == expected, f"the wheel has too much or too little: {sorted(packed ^ expected)}"
    assert sdist is not None
    with tarfile.open(sdist) as archive:
        packed = {member.name.partition("/")[2] for member in archive if member.isfile()}
    others = {name for name in packed - expected if ".egg-info/" not in name}
    assert expected <= packed, f"the sdist lacks {sorted(expected - packed)}"
    assert others == OF_THE_SDIST, f"the sdist has too much or too little: {sorted(others ^ OF_THE_SDIST)}"


def _hashes(wheel: Path) -> Mapping[str, str]:
    with zipfile.ZipFile(wheel) as file:
        return {name: hashlib.sha256(file.read(name)).hexdigest() for name in file.namelist()}


def _install(wheel: Path, folder: Path) -> Path:
    """Make the environment; return its folder of programs."""
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    command = [UV, "pip", "install", "--quiet", "--offline", "--no-deps", "--python", str(python), str(wheel)]
    subprocess.run(command, check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as file:
        (metadata,) = (name for name in file.namelist() if name.endswith(".dist-info/METADATA"))
        declared = BytesParser().parsebytes(file.read(metadata)).get_all("Requires-Dist", [])
    environment = {name: str(value) for name, value in default_environment().items()} | {"extra": ""}
    wanted = [each for each in map(Requirement, declared) if each.marker is None or each.marker.evaluate(environment)]
    for package in closure(wanted, environment):
        _link(package, site)
    return python.parent


def _link(package: str, site: Path) -> None:
    """Link the installed packages of a distribution whole, with their compiled code, and its other files one by one."""
    installed = distribution(package)
    origin = Path(str(installed.locate_file("")))
    names = set()
    for file in installed.files or ():
        if ".." not in file.parts and "__pycache__" not in file.parts:
            # A folder without __init__.py may be shared, as opentelemetry is.
            folders = (origin.joinpath(*file.parts[:depth]) for depth in range(1, len(file.parts)))
            names.add(next((each for each in folders if (each / "__init__.py").exists()), origin / file))
    for path in names:
        link = site / path.relative_to(origin)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)


def _use(programs: Path, folder: Path) -> None:
    """Start `duet serve` in a folder of its own, generate a clip with `from duet import Duet`, and stop it."""
    here = folder / "anywhere"
    here.mkdir()
    serve = Serve(here / "data", "--port", "0", program=[str(programs / "duet")], folder=here)
    try:
        with serve.ready(seconds=240) as client:
            url = str(client.base_url)
        used = [str(programs / "python"), "-c", USE, url, *PACKAGES]
        printed = subprocess.run(used, cwd=here, check=True, stdout=subprocess.PIPE, text=True, timeout=300).stdout
    finally:
        status = serve.stop()
    assert status == 0, f"duet serve ended with status {status}:\n{serve.output}"
    first = "\n".join(serve.lines[:2])
    assert str(here / "data") in first, f"the first lines do not name the data folder:\n{first}"
    assert "Ctrl-C" in first, f"the first lines do not say how to stop it:\n{first}"
    for name, path in json.loads(printed).items():
        assert Path(path).is_relative_to(programs.parent), f"{name} was imported from {path}, not from the wheel"
    with av.open(str(here / "clip.mp4")) as clip:
        codecs = {stream.type: stream.codec_context.name for stream in clip.streams if stream.codec_context}
        frames = sum(1 for _ in clip.decode(video=0))
    assert codecs == {"video": "h264", "audio": "aac"}, codecs
    assert frames > 1


if __name__ == "__main__":
    main()
