"""The process of the API."""

from __future__ import annotations

import subprocess
import sys

_SCRIPT = """
import resource
from service.server import raise_open_files_limit
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 128))
raise_open_files_limit()
print(resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_the_limit_on_open_files_is_raised_as_far_as_allowed() -> None:
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "(128, 128)"
