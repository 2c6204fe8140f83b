"""The folder for temporary files below the data folder, with a marker that says Duet made it and may empty it."""

from __future__ import annotations

import shutil

from service.settings import Settings

MARKER = "made-by-duet"

_TEXT = "Duet made this folder for temporary files. `duet serve` empties it at every start.\n"


class NotOurs(Exception):
    """The folder holds files and no marker: somebody else made it. The message says what to do."""


def claim(settings: Settings) -> None:
    """Make the folder with its marker if it is missing. Raises NotOurs, and OSError if it cannot be made."""
    folder, marker = settings.temporary.parent, settings.temporary.parent / MARKER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not marker.is_file():
        if any(folder.iterdir()):
            raise NotOurs(
                f"The folder {folder} is not empty and Duet did not make it: {MARKER} is missing in it. "
                "Move it away, or choose another data folder with --data or DUET_DATA."
            )
        marker.write_text(_TEXT, encoding="utf-8")
    settings.temporary.mkdir(exist_ok=True)


def empty(settings: Settings) -> None:
    """Claim the folder and delete what killed processes left in it. Raises NotOurs and OSError, as `claim`."""
    claim(settings)
    shutil.rmtree(settings.temporary)
    settings.temporary.mkdir()
