"""Draws docs/figures/structure.svg: the parts of the package in their layers, and which imports which.

    python docs/structure.py

The layers are those of import-linter's contract in pyproject.toml, the arrows are the imports of the code, as grimp
finds them. Left out: imports for annotations alone, arrows that a path through other parts implies (what remains is the
transitive reduction), and arrows to the lowest layer, which any part may import.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import grimp
import networkx as nx

ROOT = Path(__file__).parents[1]
FIGURE = ROOT / "docs/figures/structure.svg"
PACKAGE = "ovd_lightning"
WIDTH, ROW, HEIGHT, LETTER, GAP = 1120, 62, 28, 7.6, 26
"""Of the picture, from row to row, of a box, of a letter, between boxes; pixels."""
STYLE = """\
text { font: 13px ui-monospace, Menlo, Consolas, monospace; fill: #1b1f24; text-anchor: middle }
rect { stroke: #57606a; fill: #fff } .package { fill: #ddf4ff } .band { stroke: none; fill: #f6f8fa }
path { fill: none; stroke: #8c959f } .up { stroke: #cf222e; stroke-width: 2 } svg { background: #fff }"""


def layers() -> list[list[str]]:
    """Names of parts, the top layer first; optional ones that do not exist are left out."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    rows = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    named = [re.findall(r"\w+", row) for row in rows]
    folder = ROOT / PACKAGE
    return [
        there for row in named if (there := [n for n in row if (folder / n).is_dir() or (folder / f"{n}.py").is_file()])
    ]


def imports() -> nx.DiGraph:
    """Part -> part."""
    modules = grimp.build_graph(PACKAGE, exclude_type_checking_imports=True, cache_dir=None)
    graph = nx.DiGraph()
    for importer in sorted(modules.modules - {PACKAGE}):
        for imported in sorted(modules.find_modules_directly_imported_by(importer) - {PACKAGE}):
            a, b = importer.split(".")[1], imported.split(".")[1]
            if a != b:
                graph.add_edge(a, b)
    return graph


def svg(rows: list[list[str]], graph: nx.DiGraph) -> str:
    """Arrows that point upwards, of which there is none, would be red."""
    center: dict[str, tuple[float, float]] = {}
    for i, row in enumerate(rows):
        widths = [LETTER * len(name) + 24 for name in row]
        x = (WIDTH - sum(widths) - GAP * (len(row) - 1)) / 2
        for name, width in zip(row, widths, strict=True):
            center[name] = (x + width / 2, 40 + i * ROW)
            x += width + GAP
    height = 40 + len(rows) * ROW
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">',
        f"<style>{STYLE}</style>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8z" style="fill:#8c959f;stroke:none"/></marker></defs>',
    ]
    parts += [
        f'<rect class="band" x="0" y="{40 + i * ROW - ROW / 2 + 4}" width="{WIDTH}" height="{ROW - 8}"/>'
        for i in range(len(rows))
    ]
    drawn = nx.transitive_reduction(graph) if nx.is_directed_acyclic_graph(graph) else graph
    for a, b in sorted(edge for edge in drawn.edges if edge[1] not in rows[-1]):
        (x, y), (u, v) = center[a], center[b]
        kind = ' class="up"' if v <= y else ""
        y, v = y + HEIGHT / 2, v - HEIGHT / 2
        bend = max(ROW / 2, (v - y) / 2)
        side = 0.0 if v - y < ROW else (WIDTH * 0.30 if (x + u) / 2 >= WIDTH / 2 else -WIDTH * 0.30) * (v - y) / height
        parts.append(
            f'<path{kind} marker-end="url(#head)" d="M{x:.0f} {y:.0f} '
            f'C{x + side:.0f} {y + bend:.0f} {u + side:.0f} {v - bend:.0f} {u:.0f} {v:.0f}"/>'
        )
    for name, (x, y) in center.items():
        width = LETTER * len(name) + 24
        kind = ' class="package"' if (ROOT / PACKAGE / name).is_dir() else ""
        parts.append(
            f'<rect{kind} x="{x - width / 2:.0f}" y="{y - HEIGHT / 2:.0f}" width="{width:.0f}" height="{HEIGHT}" '
            f'rx="6"/>'
            f'<text x="{x:.0f}" y="{y + 4.5:.0f}">{name}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    FIGURE.write_text(svg(layers(), imports()))
