"""The agents that are being compared while a distillation runs."""

from dataclasses import dataclass, replace

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_asym.deployment import DeployableAgent
from sb3_asym.deployment.rollouts import Chooser, Episodes
from sb3_asym.distillation.report import Candidate, front, kept_share
from sb3_asym.distillation.teacher import network_flops


@dataclass
class Entry:
    """
    An agent, and its episodes as far as they have been run.

    :param name: name of the agent
    :param kind: kind of a :class:`Candidate`
    :param agent: deployable form
    :param model: SB3 model to save, or None
    :param chooser: function that picks the options in the master's place, or None
    :param selection: episodes by which agents are chosen
    :param held_out: episodes that are reported
    """

    name: str
    kind: str
    agent: DeployableAgent
    model: BaseAlgorithm | None = None
    chooser: Chooser | None = None
    selection: Episodes | None = None
    held_out: Episodes | None = None

    @property
    def hidden(self) -> tuple[tuple[int, ...], ...]:
        """Units of the hidden layers of each sub-policy."""
        return tuple(tuple(len(layer.bias) for layer in network.layers[:-1]) for network in self.agent.sub_policies)

    def flops_per_inference(self, episodes: Episodes) -> float:
        """
        FLOPs of a control step: each sub-policy weighted by its use, plus the master's share.

        :param episodes: episodes of the agent
        :return: mean FLOPs per env step
        """
        flops = [self._flops(network.layers) for network in self.agent.sub_policies]
        total = float(np.dot(flops, episodes.option_steps))
        if self.agent.master is not None and self.chooser is None:
            total += episodes.n_choices * self._flops(self.agent.master.layers)
        return total / float(episodes.option_steps.sum())

    def _flops(self, layers: tuple) -> int:
        return network_flops([layers[0].weight.shape[1], *(len(layer.bias) for layer in layers)])


def candidates(entries: list[Entry]) -> list[Candidate]:
    """
    The agents as they are reported, cheapest first.

    :param entries: agents whose episodes have been run, the teacher among them
    :return: the candidates, with the Pareto front of those that are no baselines
    """
    found = []
    (teacher,) = (entry for entry in entries if entry.kind == "teacher")
    assert teacher.selection is not None
    assert teacher.held_out is not None
    for entry in entries:
        assert entry.selection is not None
        assert entry.held_out is not None
        reward = float(entry.held_out.returns.mean())
        differences = entry.selection.returns - teacher.selection.returns
        use = entry.held_out.option_steps / entry.held_out.option_steps.sum()
        found.append(
            Candidate(
                name=entry.name,
                kind=entry.kind,
                hidden=entry.hidden,
                flops_per_inference=entry.flops_per_inference(entry.held_out),
                n_bytes=sum(network.n_bytes for network in entry.agent.networks),
                selection_reward=float(entry.selection.returns.mean()),
                mean_reward=reward,
                std_reward=float(entry.held_out.returns.std()),
                kept=kept_share(reward, float(teacher.held_out.returns.mean())),
                use_of_largest=float(use[-1]),
                selection_error=float(differences.std(ddof=1) / np.sqrt(len(differences))),
            )
        )
    return _with_front(sorted(found, key=lambda candidate: candidate.flops_per_inference))


def _with_front(found: list[Candidate]) -> list[Candidate]:
    """Mark the Pareto front among the agents that a user could take in fp32."""
    taken = [candidate for candidate in found if candidate.kind in ("student", "teacher", "switching")]
    marks = front([(candidate.flops_per_inference, candidate.mean_reward) for candidate in taken])
    on_front = {candidate.name for candidate, mark in zip(taken, marks, strict=True) if mark}
    return [replace(candidate, on_front=candidate.name in on_front) for candidate in found]
