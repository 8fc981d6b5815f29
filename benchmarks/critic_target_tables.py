"""Table of ``results/critic_target_*.json``, for ``draw.py``."""

from collections import defaultdict
from typing import Any

from switching_tables import gain, text

CRITICS = ("option", "shared")


def critic_target_table(results: list[dict[str, Any]]) -> str:
    """Markdown: what agents with either critic reach of what they are trained for, by option length."""
    lines = [
        "| task | option length | seeds | net return, critic of options | shared critic | difference "
        "| use of large, critic of options | shared critic | small alone, critic of options | shared critic |",
        "|---" * 10 + "|",
    ]
    for result in results:
        rows = defaultdict(list)
        for row in result["rows"]:
            rows[row["run"]].append(row)
        for length in sorted({int(run.split()[1]) for run in rows}):
            pair = [rows[f"{critic} {length}"] for critic in CRITICS]
            if not all(pair):
                continue  # one of them has no run yet
            net = [[row["net_return"] for row in seeds] for seeds in pair]
            use = [[100 * row["option_use"]["large"] for row in seeds] for seeds in pair]
            small = [[row["comparisons"][0]["mean_reward"] for row in seeds] for seeds in pair]
            cells = [result["task"], str(length), str(min(map(len, pair))), *map(text, net), gain(*net, False)]
            cells += [*(f"{text(values)}\u00a0%" for values in use), *map(text, small)]
            lines.append(f"| {' | '.join(cells)} |")
    settings = "; ".join(
        f"{result['task']}: λ = {result['settings']['cost_coef']:g}, {result['settings']['timesteps']:,} steps, small "
        f"{result['settings']['small']}, large {result['settings']['large']} units"
        for result in results
    )
    versions = ", ".join(f"{name} {version}" for name, version in results[0]["versions"].items())
    note = (
        f"Net return: return less λ · cost of each step, without the master's. Interquartile mean over the seeds and its 95 % "
        f"bootstrap interval; {results[0]['settings']['n_eval_episodes']} held-out episodes. {settings}. {versions}."
    )
    return "\n".join([*lines, "", note])
