"""The choice between the compiled and the plain update."""

from sb3_asym.buffers import Batch
from sb3_asym.update.agent import Agent
from sb3_asym.update.compiled import CompiledUpdate, obstacle_to_compiling
from sb3_asym.update.graph import CompiledUpdateUnavailable
from sb3_asym.update.option_batch import OptionBatch
from sb3_asym.update.plain import PlainUpdate

UPDATES_WORTH_COMPILING = 10_000


def choose_update(
    agent: Agent,
    batch: Batch | OptionBatch,
    master_batch_size: int,
    fast_update: bool | None,
    updates_ahead: float,
    verbose: int,
) -> PlainUpdate | CompiledUpdate:
    """
    The compiled update where it is wanted and can be had, else the plain one.

    By default it is wanted on the CPU, for as many updates as repay its compilation. On a GPU it has not been run yet, so
    there it has to be asked for.

    :param agent: the agent that learns
    :param batch: primitive transitions of the kind that will come
    :param master_batch_size: number of option transitions in a batch of the master
    :param fast_update: whether the compiled update is wanted; None for the default
    :param updates_ahead: number of updates that are left to do
    :param verbose: 1 to print a line where compiling starts, or falls back
    :return: the update, compiled for such batches
    """
    wanted = agent.device.type == "cpu" and updates_ahead >= UPDATES_WORTH_COMPILING if fast_update is None else fast_update
    if not wanted:
        return PlainUpdate(agent)
    obstacle = obstacle_to_compiling(agent)
    if obstacle is None:
        if verbose >= 1:
            print("Compiling the update, which can take up to a minute …")
        update = CompiledUpdate(agent)
        try:
            update.compile(batch, master_batch_size)
        except CompiledUpdateUnavailable as error:
            update.release()
            obstacle = str(error)
        else:
            return update
    return plain_update(agent, obstacle, fast_update, verbose)


def plain_update(agent: Agent, obstacle: str, fast_update: bool | None, verbose: int) -> PlainUpdate:
    """
    The plain update where the compiled one was wanted, with a line that says why.

    :param agent: the agent that learns
    :param obstacle: the reason
    :param fast_update: whether the user asked for the compiled update, so that the line is printed
    :param verbose: 1 to print it in any case
    :return: the update
    """
    if verbose >= 1 or fast_update:
        print(f"Plain update: {obstacle}.")
    return PlainUpdate(agent)
