"""A gathered report as one HTML page that needs nothing but itself."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from .. import __version__, console
from ..artifacts.writing import atomic_path
from ..errors import ConflictError
from . import charts
from .corpus import CorpusFacts
from .drawing import draw
from .gather import Curves, Report
from .pairs import Pair, Pairs
from .photos import FIRST_METRIC, Photo, Photos

TEMPLATE = Path(__file__).parent / "template"
GENERATOR = "syntic report"
BEGINNING = 4096
MOST_BARS = 60


def write_page(path: Path, report: Report, *, force: bool) -> None:
    """Write the report, over an earlier one but over nothing else.

    Raises:
        ConflictError: where the file is no report of syntic, and `force` is not given.
        SynticError: where it cannot be written.
    """
    if path.exists() and not force and not _is_report(path):
        raise ConflictError(
            f"{path}: is there and no report of syntic; give --force, or --output FILE"
        )
    page = render(report)
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="replace")


def _is_report(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return f'content="{GENERATOR}'.encode() in file.read(BEGINNING)


def render(report: Report, now: datetime | None = None) -> str:
    """The page as text.

    Args:
        report: what it shows.
        now: when ages are counted from; by default the present.
    """
    now = now or datetime.now(timezone.utc)
    environment = Environment(
        loader=FileSystemLoader(TEMPLATE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        age=lambda created: age(created, now),
        shown=_shown,
        number=charts.number,
        count=console.count,
    )
    script = (TEMPLATE / "page.js").read_text(encoding="utf-8")
    return environment.get_template("page.html").render(
        report=report,
        version=__version__,
        generator=f"{GENERATOR} {__version__}",
        created=now.strftime("%Y-%m-%d %H:%M UTC"),
        # The page's own script and no other may run, whatever a caption holds.
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style=Markup((TEMPLATE / "page.css").read_text(encoding="utf-8")),
        draw=draw,
        lengths=_lengths,
        cosines=_cosines,
        curve=_curve,
        photo_values=_photo_values,
        sort_keys=_sort_keys,
        photo_tabs=_photo_tabs,
        pair_values=_pair_values,
        pair_sort_keys=_pair_sort_keys,
        pair_tabs=_pair_tabs,
    )


def age(created: str, now: datetime) -> str:
    """How long ago something was made, such as `3 days`; empty where that is not known."""
    try:
        seconds = (now - datetime.fromisoformat(created)).total_seconds()
    except (ValueError, TypeError):
        return ""
    for length, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= length:
            return console.count(int(seconds // length), unit) + " ago"
    return "just now"


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _lengths(corpus: CorpusFacts) -> Markup:
    """The histogram of words a text; where there are many lengths, several share a bar."""
    step = max(1, math.ceil(len(corpus.lengths) / MOST_BARS))
    counts = [sum(corpus.lengths[n : n + step]) for n in range(0, len(corpus.lengths), step)]
    edges = [n * step - 0.5 for n in range(len(counts) + 1)]
    return charts.histogram(
        edges,
        {"texts": counts},
        title=f"Histogram of words a text, {corpus.mean_words:.1f} on average",
        across="words a text",
        up="texts",
    )


def _cosines(pairs: Pairs) -> Markup:
    first = next(iter(pairs.cosines.values()))
    means = ", ".join(f"{when} {found.mean:.3f}" for when, found in pairs.cosines.items())
    return charts.histogram(
        first.edges,
        {when: found.counts for when, found in pairs.cosines.items()},
        title=f"Histogram of the cosine of an image to its own text; mean {means}",
        across="cosine of image and own text",
        up="pairs",
    )


def _curve(curves: Curves) -> Markup:
    ends = ", ".join(
        f"{_line_name(name)} from {values[0]:.3g} to {values[-1]:.3g}"
        for name, values in curves.lines.items()
        if values
    )
    return charts.lines(
        {_line_name(name): values for name, values in curves.lines.items()},
        title=f"Curve of {curves.stage}: {ends}",
        across="epoch",
        up="loss",
        mark=curves.best,
    )


def _line_name(name: str) -> str:
    return name.replace("held_out", "held-out").replace("_", " ")


def _photo_values(photo: Photo, photos: Photos) -> str:
    """What a photo can be sorted by, as JSON: a number for each key of `_sort_keys`."""
    values: dict[str, float] = {}
    for number, said in photo.said.items():
        found = {**said.scores, "log-probability": said.log_probability}
        values |= {f"{number} {name}": value for name, value in found.items()}
    first, last = photo.said.get(0), photo.said.get(len(photos.sources) - 1)
    if len(photos.sources) > 1 and first and last:
        for name in first.scores.keys() & last.scores.keys():
            values[f"difference {name}"] = last.scores[name] - first.scores[name]
    return json.dumps({k: round(v, 4) for k, v in values.items() if math.isfinite(v)})


def _sort_keys(photos: Photos) -> Mapping[str, Mapping[str, str]]:
    """Groups of what photos can be sorted by: what a person reads, by the key in their values."""
    names = [*sorted(photos.metrics, key=lambda name: name != FIRST_METRIC), "log-probability"]
    several = len(photos.sources) > 1
    groups: dict[str, dict[str, str]] = {}
    for number, source in enumerate(photos.sources):
        own = source.scores.metrics if source.scores else {}
        groups[source.label] = {
            f"{number} {name}": f"{name}, {source.label}" if several else name
            for name in names
            if name in own or name not in photos.metrics
        }
    if several and photos.metrics:
        ends = f"{photos.sources[-1].label} − {photos.sources[0].label}"
        groups[ends] = {f"difference {name}": f"{name}, {ends}" for name in names[:-1]}
    return groups


@dataclass(frozen=True)
class Tab:
    """Cards of a group (all, where that is empty), and by what they are sorted there at first."""

    group: str
    name: str
    key: str = ""
    highest: bool = False


def _photo_tabs(photos: Photos) -> list[Tab]:
    """The worst of each source first, then all."""
    tabs = []
    for number, source in enumerate(photos.sources):
        group = f"worst{number}"
        some = sum(group in photo.groups for photo in photos.photos)
        if some and source.scores:
            metric = source.scores.first_metric
            whose = f", {source.label}" if len(photos.sources) > 1 else ""
            tabs.append(Tab(group, f"Worst {some} by {metric}{whose}", f"{number} {metric}"))
    return [*tabs, Tab("", "All", tabs[0].key if tabs else "0 log-probability")]


def _pair_tabs(pairs: Pairs) -> list[Tab]:
    """The worst, the best, some of any, and those that failed."""
    key = "after" if "after" in pairs.cosines else "before"
    tabs = [Tab("worst", "Worst", key), Tab("best", "Best", key, highest=True)]
    tabs = [*(tabs if pairs.cosines else ()), Tab("sample", "Sample")]
    failed = any("failed" in pair.groups for pair in pairs.pairs)
    return [*tabs, Tab("failed", "Failed")] if failed else tabs


def _pair_sort_keys(pairs: Pairs) -> Mapping[str, Mapping[str, str]]:
    keys = {when: f"cosine {when} optimize" for when in pairs.cosines}
    return {"": {**keys, "gain": "gain by optimize"} if len(keys) > 1 else keys}


def _pair_values(pair: Pair) -> str:
    values = {"before": pair.before, "after": pair.after, "gain": pair.after - pair.before}
    return json.dumps({k: round(v, 4) for k, v in values.items() if math.isfinite(v)})
