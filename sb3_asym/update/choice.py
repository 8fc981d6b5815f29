"""The choice between the compiled and the plain update."""

from collections.abc import Sequence

from sb3_asym.buffers import Batch
from sb3_asym.update.agent import Agent
from sb3_asym.update.compiled import CompiledUpdate, obstacle_to_compiling
from sb3_asym.update.graph import CompiledUpdateUnavailable
from sb3_asym.update.option_batch import OptionBatch
from sb3_asym.update.plain import PlainUpdate

UPDATES_WORTH_COMPILING = 10_000


class ChosenUpdate:
    """
    The update that makes an agent's gradient steps, chosen at the first of them: the compiled one where it is wanted and can
    be had, else the plain one.

    By default it is wanted on the CPU, for as many updates as repay its compilation. On a GPU it has not been run yet, so
    there it has to be asked for.

    :param agent: the agent that learns
    """

    def __init__(self, agent: Agent):
        self.agent = agent
        self.present: PlainUpdate | CompiledUpdate | None = None

    def steps(
        self, batches: Sequence[Batch | OptionBatch], update_targets: Sequence[bool], updates_ahead: float
    ) -> list[dict[str, list[float]]]:
        """
        One gradient step on each batch, as :meth:`sb3_asym.update.plain.PlainUpdate.steps`.

        :param batches: primitive transitions, of the same number
        :param update_targets: for each step, whether to move the target critics too
        :param updates_ahead: number of updates that are left to do
        :return: for each step, losses and entropy coefficients by name
        :raises FloatingPointError: if a loss is not finite; that step changes nothing
        """
        update = self.present or self._use(self._choose(batches[0], updates_ahead))
        try:
            return update.steps(batches, update_targets)
        except CompiledUpdateUnavailable as error:  # something was changed since the update was made
            self.release()
            return self._use(self._plain(str(error))).steps(batches, update_targets)

    def forget(self) -> None:
        """Choose anew at the next gradient step."""
        self.release()
        self.present = self.agent.master.compiled_update = None

    def release(self) -> None:
        """Give the agent's weights memory of their own again, which a compiled update keeps in its own."""
        if isinstance(self.present, CompiledUpdate):
            self.present.release()

    def _use(self, update: PlainUpdate | CompiledUpdate) -> PlainUpdate | CompiledUpdate:
        self.present = update
        self.agent.master.compiled_update = update.master_update if isinstance(update, CompiledUpdate) else None
        return update

    def _choose(self, batch: Batch | OptionBatch, updates_ahead: float) -> PlainUpdate | CompiledUpdate:
        """The update for batches of this kind."""
        agent, wanted = self.agent, self.agent.fast_update
        if wanted is None:
            wanted = agent.device.type == "cpu" and updates_ahead >= UPDATES_WORTH_COMPILING
        if not wanted:
            return PlainUpdate(agent)
        obstacle = obstacle_to_compiling(agent)
        if obstacle is None:
            if agent.verbose >= 1:
                print("Compiling the update, which can take up to a minute …")
            update = CompiledUpdate(agent)
            try:
                update.compile(batch, agent.master.batch_size)
            except CompiledUpdateUnavailable as error:
                update.release()
                obstacle = str(error)
            else:
                return update
        return self._plain(obstacle)

    def _plain(self, obstacle: str) -> PlainUpdate:
        """The plain update where the compiled one was wanted, with a line that says why."""
        if self.agent.verbose >= 1 or self.agent.fast_update:
            print(f"Plain update: {obstacle}.")
        return PlainUpdate(self.agent)
