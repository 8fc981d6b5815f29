"""Sub-policies are SAC actors of several sizes: their names, their hidden layers and those of their critics."""

from collections.abc import Mapping

from stable_baselines3.common.torch_layers import get_actor_critic_arch

from sb3_asym.costs import InferenceCost

CRITICS = ("shared", "separate", "option")
LOG_SECTIONS = ("asym", "eval", "master", "rollout", "time", "train")
NetArchs = Mapping[str, list[int]]


def parse_sub_net_archs(
    net_arch: list[int] | dict[str, list[int]] | None, sub_net_archs: NetArchs | None
) -> tuple[dict[str, list[int]], list[int] | None]:
    """
    Hidden layers of each sub-policy, and of the critic where ``net_arch`` names it.

    :param net_arch: SAC's argument: hidden layers of the largest sub-policy, or of it (``pi``) and the critic (``qf``)
    :param sub_net_archs: hidden layers by name, cheapest first
    :return: hidden layers by name, and those of the critic or None
    :raises ValueError: if both are given, or a name or a width is none
    :raises TypeError: if ``sub_net_archs`` is no mapping
    """
    if sub_net_archs is not None:
        if net_arch is not None:
            raise ValueError(
                "Give either net_arch (the small sub-policy is derived) or sub_net_archs in policy_kwargs, not both."
            )
        if not isinstance(sub_net_archs, Mapping):
            raise TypeError(
                f"sub_net_archs must map names to layers, such as dict(small=[8, 8], large=[64, 64]), got {sub_net_archs!r}."
            )
        clashing = sorted(set(sub_net_archs) & set(LOG_SECTIONS))
        if clashing:
            raise ValueError(f"A sub-policy cannot be called {clashing[0]!r}: the log has a section of that name.")
        archs, critic = {name: list(arch) for name, arch in sub_net_archs.items()}, None
    else:
        net_arch = [256, 256] if net_arch is None else net_arch
        large, of_critic = get_actor_critic_arch(net_arch)
        archs = {"small": [min(max(width // 8, 4), width) for width in large], "large": large}
        critic = of_critic if isinstance(net_arch, dict) else None
    for name, arch in archs.items():
        if name == "" or any(width < 1 for width in arch):
            raise ValueError(f"A sub-policy needs a name and layers of at least one unit, got {name!r}: {arch}.")
    return archs, critic


def parse_critic_net_archs(
    sub_net_archs: dict[str, list[int]], critic: list[int] | NetArchs | None, kind: str
) -> list[list[int]]:
    """
    Hidden layers of the critics.

    :param sub_net_archs: hidden layers of each sub-policy by its name
    :param critic: hidden layers of the critic, or of each one by name; by default those of the sub-policies
    :param kind: "shared" or "option", a single critic, or "separate", one for each sub-policy
    :return: hidden layers of each critic
    :raises ValueError: if there is no such kind, or names differ from the sub-policies'
    """
    if kind not in CRITICS:
        raise ValueError(f'critic must be "shared", "separate" or "option", got {kind!r}.')
    names = list(sub_net_archs)
    if isinstance(critic, Mapping):
        if kind != "separate" or set(critic) != set(names):
            raise ValueError(f"critic_net_arch by name needs critic='separate' and the names {names}, got {critic}.")
        return [list(critic[name]) for name in names]
    if kind != "separate":
        return [list(sub_net_archs[names[-1]] if critic is None else critic)]
    return [list(sub_net_archs[name] if critic is None else critic) for name in names]


def check_order(names: tuple[str, ...], costs: list[InferenceCost]) -> None:
    """
    Refuse sub-policies that do not come cheapest first.

    :param names: their names
    :param costs: their costs
    :raises ValueError: if one costs more FLOPs than the next
    """
    flops = [cost.flops for cost in costs]
    if flops != sorted(flops):
        listed = ", ".join(f"{name} {cost}" for name, cost in zip(names, flops, strict=True))
        raise ValueError(f"Order the sub-policies from cheapest to most expensive; their FLOPs are: {listed}.")
