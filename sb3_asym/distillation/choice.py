"""Which agent of a distillation to take."""

from collections.abc import Sequence

from sb3_asym.distillation.report import Candidate, kept_share, surely_kept


def choose(candidates: Sequence[Candidate], keep: float, budget: float | None) -> tuple[Candidate | None, str]:
    """
    The cheapest agent that surely keeps the teacher's return (see :func:`~sb3_asym.distillation.report.surely_kept`), or the
    best one within a budget, by the selection episodes.

    :param candidates: all agents, the teacher among them
    :param keep: share of the teacher's return to keep
    :param budget: FLOPs per inference that may be spent, in place of ``keep``
    :return: the agent or None, and the reason
    """
    teacher = next(candidate for candidate in candidates if candidate.kind == "teacher")
    eligible = [candidate for candidate in candidates if candidate.kind in ("student", "switching")]
    shares = {candidate.name: surely_kept(candidate, teacher) for candidate in eligible}
    if budget is not None:
        within = [candidate for candidate in eligible if candidate.flops_per_inference <= budget]
        if not within:
            cheapest = min(eligible, key=lambda candidate: candidate.flops_per_inference)
            return None, f"Nothing costs at most {budget:,.0f} FLOPs: the cheapest, {cheapest.name}, costs " + (
                f"{cheapest.flops_per_inference:,.0f}."
            )
        best = max(within, key=lambda candidate: candidate.selection_reward)
        return best, f"Chosen: {best.name}, which returns most among the agents of at most {budget:,.0f} FLOPs."
    enough = [candidate for candidate in eligible if shares[candidate.name] >= keep]
    if not enough:
        closest = max(eligible, key=lambda candidate: shares[candidate.name])
        return None, (
            f"No agent surely keeps {100 * keep:g}% of the return; "
            f"the closest, {closest.name}, keeps {shares[closest.name]:.1%}."
        )
    best = min(enough, key=lambda candidate: candidate.flops_per_inference)
    return best, (
        f"Chosen: {best.name}, the cheapest that surely keeps {100 * keep:g}% of the return: at least {shares[best.name]:.1%} "
        f"over the selection episodes, within one standard error; {best.kept:.1%} over the held-out ones."
    )


def verdict(candidates: Sequence[Candidate], tolerance: float = 0.002) -> str:
    """
    Whether switching is worth it: more than any fixed agent of at most its FLOPs, and than random switching at the same use,
    which lies on the line between its two actors.

    :param candidates: all agents
    :param tolerance: share of the teacher's return that counts as a tie
    :return: a sentence, or "" where no agent switches
    """
    found = switching_gain(candidates)
    if found is None:
        return ""
    name, gain = found
    if gain > tolerance:
        return (
            f"Switching is worth it: {name} keeps {gain:.1%} more than any fixed agent of at most its FLOPs, and than random "
            "switching at the same use."
        )
    return (
        "Switching is not worth it here: fixed agents of at most the same FLOPs, or random switching at the same use, keep as "
        f"much as {name}, the best agent that switches."
    )


def switching_gain(candidates: Sequence[Candidate]) -> tuple[str, float] | None:
    """
    The agent that switches to the greatest advantage over the selection episodes, and its advantage over the held-out ones, so
    that it is not the luck of the best of several. That of its baselines is: they are given the benefit of the doubt.

    :param candidates: all agents
    :return: its name, and the kept share of the return less that of the best of: fixed agents of at most the same FLOPs, and
        random switching with the same actors at the same use; None where no agent switches
    """
    teacher = next(candidate for candidate in candidates if candidate.kind == "teacher")
    selection = {c.name: kept_share(c.selection_reward, teacher.selection_reward) for c in candidates}
    held_out = {candidate.name: candidate.kept for candidate in candidates}

    def gain(agent: Candidate, kept: dict[str, float]) -> float:
        fixed = [other for other in candidates if other.kind in ("student", "teacher")]
        baselines = [kept[other.name] for other in fixed if other.flops_per_inference <= agent.flops_per_inference]
        baselines.append(kept.get(f"random {agent.name}", -float("inf")))
        return kept[agent.name] - max(baselines)

    switching = [candidate for candidate in candidates if candidate.kind == "switching"]
    if not switching:
        return None
    best = max(switching, key=lambda agent: gain(agent, selection))
    return best.name, gain(best, held_out)
