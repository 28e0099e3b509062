"""The lineage of a run as a drawing: from the corpus at the top down to the scores."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree as ET

from markupsafe import Markup

from ..schema import STAGES
from .lineage import ABSENT, BROKEN, OUTSIDE, STALE, Edge, Lineage, Node

BOX_WIDTH, BOX_HEIGHT = 152, 44
GAP_ACROSS, GAP_DOWN = 18, 34
MARGIN = 14
LETTERS = 21

_SAYS = {STALE: "stale", BROKEN: "unreadable", ABSENT: "not here"}


def draw(lineage: Lineage) -> Markup:
    """Boxes for what there is, arrows for what was made from what; broken arrows are stale."""
    rows = _rows(lineage)
    places = _places(rows)
    across = max((len(row) for row in rows), default=1)
    width = 2 * MARGIN + across * (BOX_WIDTH + GAP_ACROSS) - GAP_ACROSS
    height = 2 * MARGIN + len(rows) * (BOX_HEIGHT + GAP_DOWN) - GAP_DOWN
    said = "; ".join(_say(node, lineage.edges, lineage.nodes) for node in lineage.nodes)
    svg = ET.Element(
        "svg",
        {
            "viewBox": f"0 0 {width} {height}",
            "width": str(width),
            "height": str(height),
            "class": "lineage",
            "role": "img",
            "aria-label": f"Lineage. {said}",
        },
    )
    for edge in lineage.edges:
        _draw_edge(svg, edge, places)
    for node in lineage.nodes:
        _draw_node(svg, node, *places[node.key])
    return Markup(ET.tostring(svg, encoding="unicode"))


def _say(node: Node, edges: Sequence[Edge], nodes: Sequence[Node]) -> str:
    names = {one.key: one.name for one in nodes}
    made_from = [names[edge.source] for edge in edges if edge.target == node.key]
    state = f" ({_SAYS[node.state]})" if node.state in _SAYS else ""
    return f"{node.name}{state}" + (f" from {', '.join(made_from)}" if made_from else "")


def _rows(lineage: Lineage) -> list[list[Node]]:
    """The nodes row by row: each below all it was made from, what is given just above its use."""
    sources: dict[str, list[str]] = defaultdict(list)
    uses: dict[str, list[str]] = defaultdict(list)
    for edge in lineage.edges:
        sources[edge.target].append(edge.source)
        uses[edge.source].append(edge.target)
    depths: dict[str, int] = {}

    def depth(key: str, seen: frozenset[str]) -> int:
        if key not in depths:
            above = [depth(one, seen | {key}) for one in sources[key] if one not in seen]
            depths[key] = max(above, default=-1) + 1
        return depths[key]

    for node in lineage.nodes:
        depth(node.key, frozenset())
    for key in [node.key for node in lineage.nodes if not sources[node.key] and uses[node.key]]:
        depths[key] = max(0, min(depths[use] for use in uses[key]) - 1)
    order = {name: place for place, name in enumerate(STAGES)}
    rows: dict[int, list[Node]] = defaultdict(list)
    for node in sorted(lineage.nodes, key=lambda n: (n.state == OUTSIDE, order.get(n.stage, 99))):
        rows[depths[node.key]].append(node)
    return [rows[depth] for depth in sorted(rows)]


def _places(rows: Sequence[Sequence[Node]]) -> dict[str, tuple[float, float]]:
    """The upper left corner of each box."""
    return {
        node.key: (
            MARGIN + column * (BOX_WIDTH + GAP_ACROSS),
            MARGIN + row * (BOX_HEIGHT + GAP_DOWN),
        )
        for row, nodes in enumerate(rows)
        for column, node in enumerate(nodes)
    }


def _draw_node(svg: ET.Element, node: Node, x: float, y: float) -> None:
    kind = {OUTSIDE: "given", STALE: "stale", BROKEN: "broken", ABSENT: "absent"}.get(
        node.state, ""
    )
    box = ET.SubElement(svg, "g", {"class": f"node {kind}".strip()})
    ET.SubElement(box, "title").text = f"{node.name}: {node.problem or node.state}"
    shape = {"x": x, "y": y, "width": BOX_WIDTH, "height": BOX_HEIGHT, "rx": 8}
    ET.SubElement(box, "rect", {name: f"{value:g}" for name, value in shape.items()})
    state = f" · {_SAYS[node.state]}" if node.state in _SAYS else ""
    rows = f" · {node.rows:,}" if node.rows and not state else ""
    for text, down, style in ((node.name, 19, "name"), (f"{node.stage}{rows}{state}", 35, "stage")):
        label = ET.SubElement(
            box, "text", {"x": f"{x + 10:g}", "y": f"{y + down:g}", "class": style}
        )
        label.text = text if len(text) <= LETTERS else f"{text[: LETTERS - 1]}…"


def _draw_edge(svg: ET.Element, edge: Edge, places: Mapping[str, tuple[float, float]]) -> None:
    (from_x, from_y), (to_x, to_y) = places[edge.source], places[edge.target]
    start, end = from_y + BOX_HEIGHT, to_y - 6
    x0, x1 = from_x + BOX_WIDTH / 2, to_x + BOX_WIDTH / 2
    if from_x == to_x and to_y - from_y > BOX_HEIGHT + GAP_DOWN:
        # Past the boxes between them, on their left.
        x0 = x1 = from_x + 22
        aside = from_x - MARGIN / 2
        path = (
            f"M{x0:g} {start:g} C{x0:g} {start + 16:g} {aside:g} {start + 8:g} {aside:g} "
            f"{start + GAP_DOWN:g} L{aside:g} {end - GAP_DOWN:g} "
            f"C{aside:g} {end - 8:g} {x1:g} {end - 20:g} {x1:g} {end:g}"
        )
    else:
        if from_x > to_x:
            x1 += 24
        bend = min(40.0, (end - start) * 0.6)
        straight = max(start, end - GAP_DOWN + 6)
        path = (
            f"M{x0:g} {start:g} L{x0:g} {straight:g} "
            f"C{x0:g} {straight + bend:g} {x1:g} {end - bend:g} {x1:g} {end:g}"
        )
    arrow = ET.SubElement(svg, "g", {"class": "edge" if edge.fresh else "edge stale"})
    line = ET.SubElement(arrow, "path", {"d": path})
    ET.SubElement(line, "title").text = edge.role
    tip = f"M{x1 - 4:g} {end - 2:g} L{x1 + 4:g} {end - 2:g} L{x1:g} {end + 5:g} Z"
    ET.SubElement(arrow, "path", {"d": tip, "class": "tip"})
