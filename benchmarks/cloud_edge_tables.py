"""Table of what the link between edge and cloud survived, from the results of ``cloud_edge_link.py``."""

from typing import Any


def link_table(result: dict[str, Any]) -> str:
    """The runs with numbered transitions, then the fuzzed frames, as Markdown."""
    rows = ["| what happened | transitions | lost | doubled | out of order |", "|---|---|---|---|---|"]
    runs, frames = {}, {}
    for name, run in result["results"].items():
        (frames if "frames" in run else runs)[name] = run
    for name, run in runs.items():
        events = f"{run['events']} events: " if run["events"] > 1 else ""
        rows.append(f"| {events}{name} | {run['transitions']:,} | {run['lost']} | {run['doubled']} | {run['out of order']} |")
    damaged, forged = frames["damaged"], frames["forged, checksum right"]
    machine = result["machine"]
    return "\n".join(
        [
            *rows,
            "",
            f"Of {damaged['frames']:,} frames with bits flipped, bytes lost, added or mixed up, {damaged['accepted']} were "
            f"accepted, with {damaged['crashes']} crashes. Of {forged['frames']:,} with a strange value and the right "
            f"checksum, {forged['crashes']} crashed the reader, and {forged['valid all the same']:,} were valid all the same "
            "(another time or version).",
            "",
            f"{machine['server']}, {machine['cores']} cores, Python {machine['python']}, redis-py {machine['redis']}, msgspec "
            f"{machine['msgspec']}.",
        ]
    )
