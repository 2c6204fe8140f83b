"""The GPU tables of docs/performance.md, from a file of benchmarks.gpu."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.page_parts import PageParts

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
FILE = PAGE.parent / "figures" / "gpu.json"
"""The measurement that the page shows, where one is committed."""
PARTS = PageParts(PAGE, "python -m benchmarks.gpu --table FILE")
NAME = "GPU"
NONE = "No measurement is committed yet."


def write_tables(file: Path) -> None:
    """Replace what docs/performance.md has between its markers."""
    report = json.loads(file.read_text(encoding="utf-8"))
    PARTS.write({NAME: tables(report)})


def written() -> str:
    """What the page has now. Raises ValueError if it has no markers."""
    return PARTS.written(NAME)


def tables(report: dict[str, Any]) -> str:
    """All tables as Markdown; a part that failed has a line that says why."""
    parts = report["parts"]
    blocks = [
        _device(parts.get("device", {})),
        _forwards(parts.get("base", {}), "base network, clips"),
        _forwards(parts.get("sr", {}), "super-resolution, frames"),
        *_kernels(parts.get("kernels", {})),
        *_kernels(parts.get("training", {})),
        _figures(report),
        "\n".join(f"- `{name}`: {_cell(part['error'])}" for name, part in parts.items() if "error" in part),
    ]
    return "\n\n".join(block for block in blocks if block)


def _device(found: dict[str, Any]) -> str:
    if "matrix_product_tflop_per_s" not in found:
        return ""
    name = f"{found['name']}, {found['memory_gib']:.0f} GiB" if "name" in found else found["processor"]
    product = f"{found['matrix_product_side']}³ bfloat16 matrix product"
    return (
        f"{name}, PyTorch {found['versions']['torch']}, {found['date'][:10]}: a copy moves "
        f"{found['copy_gb_per_s']:.0f} GB/s, a {product} runs at {found['matrix_product_tflop_per_s']:.3g} TFLOP/s."
    )


def _forwards(found: dict[str, Any], title: str) -> str:
    """One line per batch size, the columns the ways to run it."""
    rows = found.get("rows", {})
    if not rows:
        return ""
    kinds = list(dict.fromkeys(name.split()[0] for name in rows))
    lines = [
        f"| {title} | {' | '.join(f'{kind}, ms' for kind in kinds)} | TFLOP/s | share | peak, GiB |",
        "|---" * (len(kinds) + 4) + "|",
    ]
    for size in dict.fromkeys(name.split()[1] for name in rows):
        ms = [f"{rows[name]['ms']:.1f}" if (name := f"{kind} {size}") in rows else "" for kind in kinds]
        best = rows.get(f"worker {size}", rows.get(f"eager {size}", {}))
        rest = [f"{best[key]:.3g}" if key in best else "" for key in ("tflop_per_s", "share", "peak_gib")]
        lines.append(f"| {size} | {' | '.join([*ms, *rest])} |")
    return "\n".join(lines)


def _kernels(found: dict[str, Any]) -> Iterator[str]:
    for title, profile in found.items():
        if not _is_profile(profile):
            continue
        lines = [
            f"| {title}: {profile['launches']} kernels, {profile['kernel_ms']:.1f} ms | count | ms | share |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| `{_cell(kernel['name'])[:70]}` | {kernel['count']} | {kernel['ms']:.2f} | {kernel['share']:.2f} |"
            for kernel in profile["top"]
        ]
        yield "\n".join(lines)


def _is_profile(value: Any) -> bool:
    return isinstance(value, dict) and "top" in value


def _figures(report: dict[str, Any]) -> str:
    """The parts that found single figures."""
    parts = report["parts"]
    lines = []
    for part in ("golden", "tests", "norms", "warmup", "stack", "training", "tuning"):
        for name, value in parts.get(part, {}).items():
            if name not in ("took_s", "error", "rows", "failures", "test_s", "log", "measured") and not _is_profile(
                value
            ):
                lines.append(f"| {part} | {name.replace('_', ' ')} | {_value(value)} |")
    return "\n".join(["| part | figure | |", "|---|---|---|", *lines]) if lines else ""


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_value(entry)}" for key, entry in value.items() if entry != [])
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:.4g}" if isinstance(value, float) else _cell(str(value))


def _cell(text: str) -> str:
    """On one line, and nothing in it that ends a cell."""
    return " ".join(text.replace("|", "/").replace("`", "'").split())[:300]
