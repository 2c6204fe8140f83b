"""`python -m model.checkpoint.layout_check FOLDER…`: whether the weights of models fit their architectures, for a
process without torch.

Prints a JSON object with one entry for each folder that does not fit: its path and the reason.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from model.checkpoint.loading import CheckpointError, check_layout
from model.checkpoint.manifest import FILE_NAME, ManifestError, read_manifest


def main(folders: list[str]) -> None:
    """Check these folders."""
    reasons = {}
    for folder in folders:
        try:
            check_layout(read_manifest(Path(folder) / FILE_NAME))
        except (CheckpointError, ManifestError, ValueError, OSError) as error:
            reasons[folder] = str(error)
    sys.stdout.write(json.dumps(reasons))


if __name__ == "__main__":
    main(sys.argv[1:])
