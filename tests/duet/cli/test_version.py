"""`duet` itself, without a command."""

from __future__ import annotations

from importlib.metadata import version

from typer.testing import CliRunner

from duet.cli import app


def test_the_version_is_that_of_the_installed_package() -> None:
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.stdout) == (0, f"duet {version('duet-av')}\n")


def test_without_a_command_the_help_is_shown() -> None:
    shown = CliRunner().invoke(app, [])
    assert shown.stdout.strip() == CliRunner().invoke(app, ["--help"]).stdout.strip()
    assert "generate" in shown.stdout
