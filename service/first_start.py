"""Secrets of a new stack: drawn once, kept in a folder that its containers share.

    python -m service.first_start FOLDER

Writes one file for each name in SECRETS. A value in the environment is written as given; without one a secret is drawn
at the first start and kept afterwards.
"""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

SECRETS = {"duet_s3_secret_key": "DUET_S3_SECRET_KEY", "grafana_admin_password": "GRAFANA_PASSWORD"}
"""File name → environment variable."""


def write_secrets(folder: Path) -> list[str]:
    """Write the files; return the names of those that were drawn now. Raises OSError."""
    drawn = []
    for name, variable in SECRETS.items():
        path = folder / name
        value = os.environ.get(variable)
        if not value and path.exists():
            continue
        if not value:
            value = secrets.token_urlsafe(32)
            drawn.append(name)
        # Read by the users of other images too; nothing outside the stack mounts the folder.
        written = path.with_suffix(".new")
        written.write_text(value, encoding="utf-8")
        written.chmod(0o444)
        written.replace(path)
    return drawn


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m service.first_start FOLDER")
    folder = Path(sys.argv[1])
    try:
        drawn = write_secrets(folder)
    except OSError as error:
        raise SystemExit(f"{folder}: {error.strerror}") from error
    sys.stderr.write(f"secrets in {folder}: {', '.join(drawn) or 'none'} drawn now\n")


if __name__ == "__main__":
    main()
