"""Which agent of a distillation to take."""

from collections.abc import Sequence

from sb3_asym.distillation.report import Candidate, kept_share


def choose(candidates: Sequence[Candidate], keep: float, budget: float | None) -> tuple[Candidate | None, str]:
    """
    The cheapest agent that keeps the teacher's return, or the best one within a budget, by the selection episodes.

    :param candidates: all agents, the teacher among them
    :param keep: share of the teacher's return to keep
    :param budget: FLOPs per inference that may be spent, in place of ``keep``
    :return: the agent or None, and the reason
    """
    teacher = next(candidate for candidate in candidates if candidate.kind == "teacher")
    eligible = [candidate for candidate in candidates if candidate.kind in ("student", "switching")]
    shares = {c.name: kept_share(c.selection_reward, teacher.selection_reward) for c in eligible}
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
        closest = max(eligible, key=lambda candidate: candidate.selection_reward)
        return None, f"No agent keeps {keep:.0%} of the return; the closest, {closest.name}, keeps {shares[closest.name]:.1%}."
    best = min(enough, key=lambda candidate: candidate.flops_per_inference)
    return best, (
        f"Chosen: {best.name}, the cheapest that keeps {keep:.0%} of the return "
        f"({shares[best.name]:.1%} over the selection episodes, {best.kept:.1%} over the held-out ones)."
    )


def verdict(candidates: Sequence[Candidate], tolerance: float = 0.002) -> str:
    """
    Whether switching is worth it: more than any fixed agent of at most its FLOPs, and than random switching at the same use,
    which lies on the line between its two actors.

    :param candidates: all agents
    :param tolerance: share of the teacher's return that counts as a tie
    :return: a sentence, or "" where no agent switches
    """
    gains = switching_gains(candidates)
    if not gains:
        return ""
    best = max(gains, key=lambda name: gains[name])
    if gains[best] > tolerance:
        return (
            f"Switching is worth it: {best} keeps {gains[best]:.1%} more than any fixed agent of at most its FLOPs, and than "
            "random switching at the same use."
        )
    return (
        "Switching is not worth it here: fixed agents of at most the same FLOPs, or random switching at the same use, keep as "
        "much as every agent that switches."
    )


def switching_gains(candidates: Sequence[Candidate]) -> dict[str, float]:
    """
    What the agents that switch keep beyond their baselines.

    :param candidates: all agents
    :return: by name, the kept share of the return less that of the best of: fixed agents of at most the same FLOPs, and
        random switching with the same actors at the same use
    """
    kept = {candidate.name: candidate.kept for candidate in candidates}
    fixed = [candidate for candidate in candidates if candidate.kind in ("student", "teacher")]
    gains = {}
    for agent in candidates:
        if agent.kind == "switching":
            baselines = [other.kept for other in fixed if other.flops_per_inference <= agent.flops_per_inference]
            baselines.append(kept.get(f"random {agent.name}", -float("inf")))
            gains[agent.name] = agent.kept - max(baselines)
    return gains
