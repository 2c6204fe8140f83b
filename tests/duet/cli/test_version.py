"""`duet` itself, without a command."""

from __future__ import annotations

from importlib.metadata import version

from tests.command_line import invoke


def test_the_version_is_that_of_the_installed_package() -> None:
    done = invoke(["--version"])
    assert (done.exit_code, done.stdout) == (0, f"duet {version('duet-av')}\n")


def test_without_a_command_the_help_is_shown() -> None:
    shown = invoke([])
    assert shown.stdout.strip() == invoke(["--help"]).stdout.strip()
    assert "generate" in shown.stdout
