"""What README and docs/ name exists: files, headings, commands and their options, settings, codes of errors."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
from cyclopts import App

from duet.cli import app
from service.settings import PREFIX, Settings
from tests import settings_table
from tests.error_codes import error_codes

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("integrations/*/*.md")]
)
SOURCES = ("duet", "model", "service", "workers")

FOLDERS = "duet|model|service|workers|benchmarks|tests|docker|integrations"

HOUSE = (ROOT / "docs" / "architecture" / "01-the-house.md").read_text(encoding="utf-8")
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]

OF_TESTS = re.compile(r"DUET_(TEST|GOLDEN|CLIPS|CASES)_\w*")
"""Variables of the tests, which CONTRIBUTING explains."""

OF_THE_COMMAND_LINE = {"DUET_URL", "DUET_KEY", "DUET_MCP_TOKEN"}

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """What a link to a heading of the page may say."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def code(page: Path) -> Iterator[str]:
    """Every line of code on the page, in blocks and in the text."""
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield from block.splitlines()
    yield from re.findall(r"`([^`\n]+)`", prose(page))


def commands(group: App = app, prefix: str = "") -> dict[str, set[str]]:
    """Names of the options of each command, such as `generate` and `data check`."""
    found = {}
    for name in group:
        if name.startswith("-"):
            continue
        command = group[name]
        if command.default_command is None:
            found |= commands(command, f"{prefix}{name} ")
        else:
            found[prefix + name] = {option for each in command.assemble_argument_collection() for option in each.names}
    return found


def required(benchmark: Path) -> list[str]:
    """Arguments without which the benchmark does not run: required options, and positional ones."""
    found = []
    for call in ast.walk(ast.parse(benchmark.read_text(encoding="utf-8"))):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument":
            name = ast.literal_eval(call.args[0])
            if not name.startswith("-") or any(each.arg == "required" for each in call.keywords):
                found.append(name)
    return found


def sources() -> str:
    """The source of everything with messages for users; strings over several lines are joined."""
    paths = [path for folder in SOURCES for path in (ROOT / folder).rglob("*.py")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in [*paths, ROOT / "Makefile"])
    return re.sub(r'"\s*\n\s*f?"', "", text)


@pages
def test_links_are_valid(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(ROOT), f"{link} leads out of the project"
        assert target.exists(), f"{link} leads nowhere"
        if anchor:
            assert anchor in anchors(target), f"{link}: no such heading"


@pages
def test_pictures_have_descriptions_and_small_files(page: Path) -> None:
    for described, path in re.findall(r"!\[([^\]]*)\]\(([^)\s]+)\)", prose(page)):
        assert len(described) > 20, path
        assert (page.parent / path).stat().st_size < 256 * 1024, path


@pages
def test_commands_and_their_options_exist(page: Path) -> None:
    known = commands()
    for line in code(page):
        for name, rest in re.findall(r"(?:^|[ (/])(?<!from )duet ([a-z][a-z0-9-]*)([^|#)]*)", line):
            if name not in known:  # one of a group, as in `duet data check`
                name = " ".join([name, *rest.split()[:1]])
            assert name in known, f"{line}: there is no `duet {name}`"
            for option in re.findall(r"(?<!\S)(--?[a-z][a-z0-9-]*)", rest):
                assert option in known[name] | {"--help"}, f"{line}: `duet {name}` has no {option}"
        for option in re.findall(r"(?:^|[ (/])duet (--[a-z-]+)", line):
            assert option in {"--help", "--version"}, f"{line}: `duet` has no {option}"


@pages
def test_settings_exist(page: Path) -> None:
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} | OF_THE_COMMAND_LINE
    for name in set(re.findall(r"\bDUET_[A-Z0-9_]+\b", page.read_text(encoding="utf-8"))):
        assert name in known or OF_TESTS.match(name), f"there is no setting {name}"


@pages
def test_targets_of_make_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for line in code(page):
        for target in re.findall(r"(?:^|[ `;])make ([a-z][a-z-]*)(?= |$)", line):
            assert target in targets, f"{line}: there is no target {target}"


@pages
def test_modules_and_files_of_the_project_exist(page: Path) -> None:
    for line in code(page):
        for module in re.findall(r"python -m ((?:duet|model|service|workers|benchmarks|tests)[\w.]*)", line):
            path = ROOT / module.replace(".", "/")
            assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), f"{line}: no {module}"
        for path in re.findall(rf"(?<![\w/.-])((?:{FOLDERS})/[\w/.-]+\w/?)", line):
            assert (ROOT / path).exists(), f"there is no {path}"


@pages
def test_commands_of_benchmarks_have_their_required_arguments(page: Path) -> None:
    for line in code(page):
        for name, rest in re.findall(r"python -m benchmarks\.(\w+)([^|>#]*)", line):
            given = rest.split()
            for argument in required(ROOT / "benchmarks" / f"{name}.py"):
                positional = not argument.startswith("-") and given and not given[0].startswith("-")
                assert positional or argument in given, f"{line}: {argument} is missing"


def test_the_table_of_settings_is_not_stale() -> None:
    assert settings_table.written() == settings_table.table(), "run: python -m tests.settings_table"


def test_errors_in_troubleshooting_exist_in_the_code() -> None:
    said, codes = sources(), error_codes()
    page = ROOT / "docs" / "troubleshooting.md"
    symptoms = [row.split("|")[1] for row in page.read_text(encoding="utf-8").splitlines() if row.startswith("|")]
    quoted = [text for symptom in symptoms for text in re.findall(r"`([^`]+)`", symptom)]
    assert len(quoted) > 40
    for text in quoted:
        if not text.startswith(("/", "python ")):
            assert text in said or text in codes, f"the code says nothing like: {text}"


def test_every_error_is_explained() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    missing = {code for code in error_codes() if f"`{code}`" not in page}
    assert not missing, f"docs/troubleshooting.md does not explain {missing}"


def test_every_page_is_linked() -> None:
    index = ROOT / "docs" / "README.md"
    reached, pages = set(), [index]
    while pages:
        page = pages.pop()
        reached.add(page)
        links = re.findall(r"\]\(([^)\s#]+\.md)", prose(page))
        found = {(page.parent / link).resolve() for link in links if not link.startswith("http")}
        pages += [each for each in found if each.exists() and each not in reached and each not in pages]
    unreached = {path.name for path in ROOT.glob("docs/**/*.md")} - {page.name for page in reached}
    assert not unreached, f"nothing leads to {unreached}"


def test_the_house_has_every_room() -> None:
    """The table of docs/architecture/01 names every package."""
    packages = [path.parent for name in SOURCES for path in (ROOT / name).glob("*/__init__.py")]
    rooms = {str(path.relative_to(ROOT)) for path in packages}
    missing = {room for room in rooms if f"`{room}`" not in HOUSE}
    assert not missing, f"docs/architecture/01-the-house.md does not describe {missing}"


def test_the_picture_of_the_house_agrees_with_the_import_contracts() -> None:
    layers = {contract["id"]: contract["layers"] for contract in CONTRACTS if contract["type"] == "layers"}
    picture = HOUSE.partition("```")[2].partition("```")[0]
    drawn = [picture.index(f"{name}/ ─") for name in layers["packages"]]
    assert drawn == sorted(drawn)
    for name in ("service", "model"):
        box = picture.partition(f"{name}/ ─")[2].partition("└─")[0]
        levels = {word: level for level, names in enumerate(layers[name]) for word in names.split(" | ")}
        shown = [[word for word in cell.split() if word in levels] for cell in box.replace("\n", "│").split("│")]
        heights = [levels[word] for cell in shown for word in cell]
        assert len(heights) > 7, f"the picture does not show the rooms of {name}"
        assert heights == sorted(heights), f"the picture of {name} is not in the order of its layers"


def test_every_contract_is_explained() -> None:
    assert [contract["id"] for contract in CONTRACTS] == re.findall(
        r"^\| `([\w-]+)` \| ", HOUSE.partition("## Import")[2], re.M
    )
