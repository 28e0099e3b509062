"""The table of results: printed, as JSON and as Markdown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from .measure import Options, Row, machine

HERE = Path(__file__).parent
HEADER = "| what | unit | ours | peer | peer's | ratio (range) | target | met | clock |"


def number(value: float | None) -> str:
    """A figure to three digits."""
    if value is None:
        return "not measured"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def line(row: Row) -> str:
    """A row of the Markdown table."""
    ratio = number(row.ratio)
    if row.lowest is not None and row.highest is not None and row.lowest != row.highest:
        ratio += f" ({number(row.lowest)}–{number(row.highest)})"
    cells = [row.what, row.unit, number(row.ours), row.peer, number(row.theirs), ratio]
    return "| " + " | ".join([*cells, row.target, row.met, row.clock]) + " |"


def table(rows: Sequence[Row]) -> str:
    """Markdown with a section for each benchmark."""
    parts = []
    for name in dict.fromkeys(row.benchmark for row in rows):
        own = [line(row) for row in rows if row.benchmark == name]
        parts.append("\n".join([f"### {name}\n", HEADER, "|" + " --- |" * 9, *own]))
    return "\n\n".join(parts) + "\n"


def save(rows: Sequence[Row], options: Options, folder: Path) -> None:
    """Write the JSON and the table; rows of benchmarks that did not run now are kept."""
    path = folder / f"results-{options.device}.json"
    about = {"machine": machine(options), **asdict(options)}
    earlier = json.loads(path.read_text())["rows"] if path.exists() else []
    ran = {row.benchmark for row in rows}
    kept = [Row(**old) for old in earlier if old["benchmark"] not in ran]
    every = sorted([*kept, *rows], key=lambda row: row.benchmark)
    document = {**about, "rows": [asdict(row) for row in every]}
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    head = f"Machine: {about['machine']}; {options.threads} thread(s), device {options.device}.\n\n"
    if folder == HERE:
        _put(HERE / "RESULTS.md", options.device, head + table(every))


def _put(path: Path, device: str, text: str) -> None:
    """Replace what stands between a device's marks; the words around it are written by hand."""
    mark = f"<!-- {device} -->\n"
    before, _, after = path.read_text().split(mark)
    path.write_text(mark.join([before, text, after]))
