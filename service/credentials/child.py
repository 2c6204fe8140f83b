"""The child process that reads one file's statement. `service.credentials.reading` starts it.

It loads the libraries, reads one line of JSON from standard input, restricts its own process, reads the file and writes
one line of JSON. It is run by its path, in Python's isolated mode.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
try:
    from model.media.containers import Signature
    from service.credentials.parsing import read_report
    from service.sandbox.limits import ProcessLimits, address_space, confine
    from service.sandbox.loading import load_decoder

    load_decoder()
except ImportError as error:
    sys.stderr.write(f"{error}\n")
    sys.exit(69)


def main() -> None:
    line = sys.stdin.buffer.readline()
    if not line:
        return
    request = json.loads(line)
    descriptor = os.open(request["path"], os.O_RDONLY)
    limits = ProcessLimits(**request["limits"])
    used = math.ceil(time.process_time())
    most = ProcessLimits(used + limits.cpu_seconds, limits.wall_seconds, limits.memory_bytes, file_bytes=0)
    confine(most, descriptors=descriptor + 4, loaded_bytes=address_space())
    report = read_report(descriptor, Signature(**request["signature"]), request["trusted"])
    sys.stdout.write(json.dumps(asdict(report)))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
