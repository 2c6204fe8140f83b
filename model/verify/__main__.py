"""`python -m model.verify DIR`: run every case of a folder of recorded numbers and show error beside tolerance.

Exit status: 0 all pass, 1 a check misses its tolerance, 2 the folder cannot be used.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from pathlib import Path

import torch
from rich.console import Console

from model import verify as package
from model.verify.folder import FolderError, read_folder
from model.verify.report import verify


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m model.verify", description="Check this installation against recorded numbers."
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="pairs of .json and .safetensors")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument(
        "--case", default="*", metavar="PATTERN", help="only cases whose name matches, such as 'unet_a/*'"
    )
    parser.add_argument("--device", default="cpu", help="where to compute: cpu (default), cuda, …")
    options = parser.parse_args(arguments)

    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = (
        False  # the tolerances are those of float32
    )
    console = Console(stderr=True)
    for module in pkgutil.iter_modules(package.__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"{package.__name__}.{module.name}")  # each registers its cases
    try:
        with console.status("reading") as status:
            report = verify(read_folder(options.folder), torch.device(options.device), options.case, status.update)
    except FolderError as error:
        console.print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        return 2
    if not report.checks:
        console.print(f"error: no case matches {options.case!r}", markup=False, highlight=False, soft_wrap=True)
        return 2
    if options.json:
        sys.stdout.write(report.to_json() + "\n")
    else:
        report.show(Console(width=None if sys.stdout.isatty() else 160))
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
