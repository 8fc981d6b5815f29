"""Draws the processes of cloud-edge training: ``python docs/cloud_edge_picture.py`` writes ``docs/cloud_edge.svg``."""

from html import escape
from pathlib import Path

WIDTH, HEIGHT = 860, 300
BOXES = (
    (20, 60, 130, 180, "robot", "sensors in|command out", "#e8eef7"),
    (200, 60, 170, 75, "control", "absolute deadlines|SCHED_FIFO, no I/O", "#d9ead3"),
    (200, 165, 170, 75, "courier", "stores, sends|checks policies", "#d9ead3"),
    (415, 165, 110, 75, "outbox", "SQLite on|the robot's disk", "#fff2cc"),
    (570, 60, 100, 180, "link", "a folder, or|Redis, Valkey|with TLS", "#eeeeee"),
    (715, 60, 125, 180, "learner", "replay memory,|gradient steps,|checkpoint", "#f4dede"),
)
ARROWS = (
    ((150, 85), (200, 85), "", 0),
    ((200, 112), (150, 112), "", 0),
    ((240, 135), (240, 165), "ring", -18),
    ((275, 165), (275, 135), "policy", 24),
    ((370, 215), (415, 215), "", 0),
    ((525, 215), (570, 215), "batches", -1),
    ((570, 152), (350, 152), "policy, sign of life", -1),
    ((350, 152), (350, 165), "", 0),
    ((670, 215), (715, 215), "", 0),
    ((715, 150), (670, 150), "", 0),
    ((715, 185), (670, 185), "", 0),
)


def svg() -> str:
    """The picture."""
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13">',
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#444"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        '<rect x="185" y="25" width="355" height="235" rx="8" fill="none" stroke="#888" stroke-dasharray="5 4"/>',
        '<text x="195" y="44" fill="#555">edge</text>',
        '<text x="715" y="44" fill="#555">cloud</text>',
    ]
    for x, y, width, height, name, text, color in BOXES:
        lines.append(f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" fill="{color}" stroke="#666"/>')
        middle = x + width / 2
        lines.append(f'<text x="{middle}" y="{y + 22}" text-anchor="middle" font-weight="bold">{name}</text>')
        for row, part in enumerate(text.split("|")):
            lines.append(
                f'<text x="{middle}" y="{y + 42 + 16 * row}" text-anchor="middle" font-size="12">{escape(part)}</text>'
            )
    starts = {start for start, *_ in ARROWS}
    for (x1, y1), (x2, y2), label, shift in ARROWS:
        head = "" if (x2, y2) in starts else ' marker-end="url(#head)"'
        lines.append(f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="#444"{head}/>')
        if label:
            beside = x1 == x2
            x, y = ((x1 + shift), (y1 + y2) / 2 + 4) if beside else ((x1 + x2) / 2, y1 - 5)
            lines.append(f'<text x="{x}" y="{y}" text-anchor="middle" font-size="11" fill="#444">{label}</text>')
    lines.append(
        f'<text x="{WIDTH / 2}" y="285" text-anchor="middle" font-size="12" fill="#555">'
        "A batch leaves the outbox when it is in the learner's checkpoint. Each process may die at any time.</text>"
    )
    return "\n".join([*lines, "</svg>"]) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("cloud_edge.svg").write_text(svg(), encoding="utf-8")
