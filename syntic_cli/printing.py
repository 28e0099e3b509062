"""Results on standard output: captions, scores and artifacts, as tables or for other programs."""

from __future__ import annotations

import csv
import json
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from . import console
from .errors import shown

if TYPE_CHECKING:
    from rich.tree import Tree

    from .artifacts.records import Caption
    from .estimate import Estimate
    from .stages.evaluate import Evaluation


def print_captions(captions: Sequence[Caption], format: str, *, beside: Path | None = None) -> None:
    """Print captions as a table, as plain text, or as json, jsonl, csv or metadata.

    metadata is the `metadata.jsonl` of an imagefolder of Hugging Face; its file names begin at
    `beside`, and photos without a caption are left out.
    """
    if format == "json":
        print(json.dumps([_as_json(caption) for caption in captions], ensure_ascii=False, indent=1))
    elif format == "jsonl":
        for caption in captions:
            print(json.dumps(_as_json(caption), ensure_ascii=False))
    elif format == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(
            ["path", "caption", "log_probability", "objects", "error", "note", "confidence"]
        )
        for caption in captions:
            writer.writerow(
                [
                    caption.path,
                    caption.caption,
                    "" if caption.error else f"{caption.log_probability:.4f}",
                    ";".join(found.label for found in caption.objects),
                    caption.error,
                    caption.note,
                    "" if caption.confidence is None else caption.confidence,
                ]
            )
    elif format == "metadata":
        for caption in captions:
            if not caption.error:
                name = PurePath(os.path.relpath(caption.path, beside)).as_posix()
                print(json.dumps({"file_name": name, "text": caption.caption}, ensure_ascii=False))
    elif format == "txt":
        for caption in captions:
            print(shown(caption.caption))
    else:
        _print_table(captions)


def _print_table(captions: Sequence[Caption]) -> None:
    """A row for each photo; how sure the captioner is, where it knows, is set faint."""
    paths = [caption.path for caption in captions]
    names = [PurePath(path).name for path in paths]
    rows = [
        [
            photo,
            caption.caption if not caption.error else f"✗ {caption.error}",
            ", ".join(dict.fromkeys(found.label for found in caption.objects)),
        ]
        for photo, caption in zip(
            names if len(set(names)) == len(set(paths)) else paths, captions, strict=True
        )
    ]
    columns = ["photo", "caption", "objects"]
    if any(caption.confidence is not None for caption in captions):
        columns.insert(2, "sure")
        for row, caption in zip(rows, captions, strict=True):
            sure = caption.confidence
            row.insert(2, "" if sure is None else f"{100 * sure:.0f} %")
    console.table(columns, rows, right=["sure"], faint=["sure"])


def _as_json(caption: Caption) -> dict[str, Any]:
    values = asdict(caption)
    if math.isnan(caption.log_probability):
        values["log_probability"] = None
    return values


def print_evaluation(evaluation: Evaluation, format: str, *, quiet: bool = False) -> None:
    """Print scores × 100 as a table or as one JSON object; notes go to standard error."""
    for note in evaluation.notes:
        console.warn(note)
    if format == "json":
        print(json.dumps(_evaluation_as_json(evaluation), ensure_ascii=False))
        return
    if evaluation.others:
        _print_comparison(evaluation)
    else:
        console.table(
            ["metric", "score"],
            [[name, f"{value:.1f}"] for name, value in evaluation.metrics.items()],
            right=["score"],
        )
    for left_out, meaning in (
        (evaluation.missing, "references but no caption"),
        (evaluation.extra, "a caption but no references"),
    ):
        if left_out:
            names = ", ".join(left_out[:5]) + (", …" if len(left_out) > 5 else "")
            photos = console.count(len(left_out), "photo has", "photos have")
            console.warn(f"{photos} {meaning}: {names}")
    console.note(console.count(evaluation.n, "photo"), quiet=quiet)
    if evaluation.encoder:
        console.note(f"photos and captions compared by {evaluation.encoder}", quiet=quiet)


def _evaluation_as_json(evaluation: Evaluation) -> dict[str, Any]:
    """The scores as plain values; of several files or an encoder only where there are such."""
    values = asdict(evaluation)
    del values["notes"]
    if not evaluation.others:
        del values["others"], values["captions"]
    if not evaluation.encoder:
        del values["encoder"]
    return values


def _print_comparison(evaluation: Evaluation) -> None:
    """A column for each file of captions, and one for what it is better by than the first."""
    files = _short([evaluation.captions, *(other.captions for other in evaluation.others)])
    columns = ["metric", files[0]]
    rows = [[name, f"{value:.1f}"] for name, value in evaluation.metrics.items()]
    for file, other in zip(files[1:], evaluation.others, strict=True):
        columns += [file, f"{file} − {files[0]} (95 %)"]
        for row in rows:
            score, found = other.metrics.get(row[0]), other.differences.get(row[0])
            row.append("" if score is None else f"{score:.1f}")
            row.append(
                ""
                if found is None
                else f"{found.value:+.2f} ({found.low:+.2f} … {found.high:+.2f})"
            )
    console.table(columns, rows, right=columns[1:])


def _short(names: Sequence[str]) -> list[str]:
    """File names without their folders and suffixes, as far as that leaves them apart."""
    for short in ([PurePath(n).stem for n in names], [PurePath(n).name for n in names]):
        if len(set(short)) == len(short):
            return short
    return list(names)


def print_artifact(description: dict[str, Any], format: str) -> None:
    """Print what `stages.inspect.describe` found, as a tree or as one JSON object."""
    if format == "json":
        print(json.dumps(description, ensure_ascii=False, indent=1))
        return
    settings = [f"{name} = {_shown(value)}" for name, value in description["settings"].items()]
    settings += [f"{name} = {_shown(value)}" for name, value in description["attributes"].items()]
    datasets = [
        f"{name} {' × '.join(map(str, shape))}" for name, shape in description["datasets"].items()
    ]
    history = [f"{name}: {_curve(v)}" for name, v in description["history"].items()]
    rows = (
        f"{console.count(description['rows'], 'row')}, " if description["rows"] else ""
    )  # a captioner has none
    console.show(
        console.tree(
            f"{description['path']}  ({description['stage']}, {rows}"
            f"{description['fingerprint'][:8]}, syntic {description['version']}, "
            f"{description['created']})",
            [
                console.tree("datasets", datasets),
                console.tree("settings", settings),
                *([console.tree("history", history)] if history else []),
                console.tree("made from", [_ancestor(entry) for entry in description["lineage"]]),
            ],
        )
    )


def print_workspace(entries: Sequence[dict[str, Any]], format: str) -> None:
    """Print what `stages.inspect.describe_workspace` found, as a table or as one JSON list."""
    if format == "json":
        print(json.dumps(entries, ensure_ascii=False, indent=1))
        return
    rows = [
        [entry["stage"], entry["file"], str(entry["rows"] or ""), entry["state"]]
        for entry in entries
    ]
    console.table(["stage", "file", "rows", "state"], rows, right=["rows"])


def _ancestor(entry: dict[str, Any]) -> Tree:
    state = f"  ← {entry['state']}" if entry["state"] else ""
    text = (
        f"{entry['role']}: {entry['file']}  ({entry['stage']}, {entry['fingerprint'][:8]}){state}"
    )
    return console.tree(text, [_ancestor(above) for above in entry["lineage"]])


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else text[:97] + "..."


BARS = "▁▂▃▄▅▆▇█"


def _curve(values: Sequence[float]) -> str:
    """A curve as its first and last value, and its shape in between."""
    if len(values) < 2:
        return ", ".join(f"{value:.4g}" for value in values)
    points = values[:: max(1, len(values) // 40)]
    low, high = min(points), max(points)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    bars = "".join(BARS[round((value - low) * scale)] for value in points)
    return f"{values[0]:.4g} {bars} {values[-1]:.4g}"


def print_estimates(estimates: Sequence[Estimate], texts: int) -> None:
    """Print what each stage will take, and all of them together."""
    console.table(
        ["stage", "items", "disk", "time"],
        [
            [one.stage, f"{one.items:,}", _size(one.disk_bytes), console.duration(one.seconds)]
            for one in estimates
        ],
        right=["items", "disk", "time"],
    )
    total, room = (sum(getattr(e, name) for e in estimates) for name in ("seconds", "disk_bytes"))
    console.note(
        f"{console.count(texts, 'text')}: about {console.duration(total)} and {_size(room)}, by a "
        "trial of a few items on this device; nothing was kept"
    )


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
