"""Charts as inline SVG, coloured by the page's style sheet so that they follow its theme."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree as ET

from markupsafe import Markup

WIDTH, HEIGHT = 400, 230
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 12, 40
TICKS = 5


def histogram(
    edges: Sequence[float],
    series: Mapping[str, Sequence[int]],
    *,
    title: str,
    across: str,
    up: str,
) -> Markup:
    """Bars of counts; several series lie over one another, half transparent.

    Args:
        edges: of the bins, one more than there are counts.
        series: counts by the name of each series.
        title: what a screen reader says of the chart.
        across, up: names of the axes.
    """
    top = max((max(counts, default=0) for counts in series.values()), default=0)
    axes = _Axes((edges[0], edges[-1]), (0, max(1, top)))
    svg = axes.begin(title, across, up)
    for number, (name, counts) in enumerate(series.items()):
        bars = ET.SubElement(svg, "g", {"class": f"bars series{number}"})
        for low, high, count in zip(edges, edges[1:], counts, strict=False):
            if not count:
                continue
            x, y = axes.at(low, count)
            right, base = axes.at(high, 0)
            width = max(0.5, right - x - 0.5)
            bar = ET.SubElement(bars, "rect", _place(x=x, y=y, width=width, height=base - y))
            label = f"{name}: " if len(series) > 1 else ""
            ET.SubElement(bar, "title").text = f"{label}{_range(low, high)}: {count:,}"
    return _markup(svg)


def lines(
    series: Mapping[str, Sequence[float]],
    *,
    title: str,
    across: str,
    up: str,
    mark: int | None = None,
) -> Markup:
    """A curve a series over 1, 2, 3, ..., with a marked place.

    Args:
        series: values by the name of each series.
        title: what a screen reader says of the chart.
        across, up: names of the axes.
        mark: the index of a vertical line, counted from 0.
    """
    values = [value for one in series.values() for value in one if math.isfinite(value)]
    longest = max((len(one) for one in series.values()), default=0)
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    pad = 0.05 * (high - low) or 0.5
    axes = _Axes((1, max(2, longest)), (max(0.0, low - pad) if low >= 0 else low - pad, high + pad))
    svg = axes.begin(title, across, up, whole=True)
    if mark is not None:
        x, bottom = axes.at(mark + 1, axes.y[0])
        ET.SubElement(svg, "line", {"class": "mark", **_place(x1=x, x2=x, y1=TOP, y2=bottom)})
    for number, (name, one) in enumerate(series.items()):
        points = [axes.at(i, value) for i, value in enumerate(one, 1) if math.isfinite(value)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        line = ET.SubElement(svg, "polyline", {"points": path, "class": f"line series{number}"})
        ET.SubElement(line, "title").text = name
        if len(points) == 1:
            dot = _place(cx=points[0][0], cy=points[0][1], r=3)
            ET.SubElement(svg, "circle", {"class": f"dot series{number}", **dot})
    return _markup(svg)


class _Axes:
    """The plot's coordinates, and its frame of ticks."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float]) -> None:
        self.x, self.y = x, y

    def at(self, x: float, y: float) -> tuple[float, float]:
        """A point in pixels."""
        share_x = (x - self.x[0]) / ((self.x[1] - self.x[0]) or 1)
        share_y = (y - self.y[0]) / ((self.y[1] - self.y[0]) or 1)
        return (
            LEFT + share_x * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - share_y * (HEIGHT - TOP - BOTTOM),
        )

    def begin(self, title: str, across: str, up: str, *, whole: bool = False) -> ET.Element:
        size = {"viewBox": f"0 0 {WIDTH} {HEIGHT}", "class": "chart", "role": "img"}
        svg = ET.Element("svg", {**size, "aria-label": title})
        for value in ticks(*self.y):
            x, y = self.at(self.x[0], value)
            ends = _place(x1=x, x2=WIDTH - RIGHT, y1=y, y2=y)
            ET.SubElement(svg, "line", {"class": "grid", **ends})
            self._label(svg, x - 6, y + 4, number(value), "end")
        for value in ticks(*self.x):
            if whole and value != round(value):
                continue
            x, y = self.at(value, self.y[0])
            self._label(svg, x, y + 16, number(value), "middle")
        self._label(svg, (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, across, "middle", "axis")
        turned = self._label(svg, 0, 0, up, "middle", "axis")
        turned.set("transform", f"translate(11 {(TOP + HEIGHT - BOTTOM) / 2:.0f}) rotate(-90)")
        return svg

    @staticmethod
    def _label(
        svg: ET.Element, x: float, y: float, text: str, anchor: str, kind: str = "tick"
    ) -> ET.Element:
        place = {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor, "class": kind}
        label = ET.SubElement(svg, "text", place)
        label.text = text
        return label


def ticks(low: float, high: float) -> list[float]:
    """About five round numbers from low to high."""
    if not high > low:
        return [low]
    rough = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) + 0.0 for i in range(first, last + 1)]


def number(value: float) -> str:
    """A number for people: 1,200 and 0.25 and 3e-05."""
    if value and abs(value) < 1e-3:
        return f"{value:.0e}"
    return f"{value:,.0f}" if value == round(value) else f"{value:.4g}"


def _range(low: float, high: float) -> str:
    """A bin in words; one that is 1 wide stands for the whole number in its middle."""
    return number(low + 0.5) if high - low == 1 else f"{low:.3g} to {high:.3g}"


def _place(**numbers: float) -> dict[str, str]:
    return {name: f"{value:.1f}" for name, value in numbers.items()}


def _markup(svg: ET.Element) -> Markup:
    # Made of elements, whose texts ElementTree escapes.
    return Markup(ET.tostring(svg, encoding="unicode"))
