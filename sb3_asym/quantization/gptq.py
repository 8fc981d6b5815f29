"""Weights rounded in turn, where those to come make up for the error so far: GPTQ (Frantar et al. 2022, arXiv 2210.17323)."""

import numpy as np

from sb3_asym.quantization.schemes import Grid

DAMPING = 0.01
"""Added to the diagonal of the inputs' second moments, relative to its mean."""


def round_in_turn(
    weight: np.ndarray, bias: np.ndarray, grid: Grid, inputs: np.ndarray, wanted: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """
    Whole numbers for the weights of a dense layer, such that its outputs change little for the inputs of rollouts.

    Columns of weights are rounded one after the other, those of the largest inputs first. The error of each is spread over the
    columns to come by the second moments of the inputs; what remains goes into the biases, which stay in float32.

    :param weight: weights, ``(n_out, n_in)``
    :param bias: biases, ``(n_out,)``
    :param grid: grid of the weights
    :param inputs: inputs of the quantized layer, ``(n_steps, n_in)``
    :param wanted: inputs for which the outputs of the layer in fp32 are to be met, ``(n_steps, n_in)``; ``inputs`` by default
    :return: whole numbers ``(n_out, n_in)``, and biases ``(n_out,)`` float32
    """
    n_in, mean = weight.shape[1], inputs.mean(0, dtype=np.float64)  # damping is for what varies
    x, columns = _with_ones(inputs - mean), np.column_stack([weight, bias + weight @ mean]).astype(np.float64)
    moments = x.T @ x / len(x)
    sizes = np.diag(moments)[:n_in].copy()
    moments[np.arange(n_in), np.arange(n_in)] += DAMPING * max(sizes.mean(), 1e-12)
    if wanted is not None:
        columns += np.linalg.solve(moments, x.T @ ((_with_ones(wanted - mean) - x) @ columns.T) / len(x)).T
    order = np.append(np.argsort(-sizes, kind="stable"), n_in)
    spread = np.linalg.cholesky(np.linalg.inv(moments[np.ix_(order, order)])).T
    columns = columns[:, order]
    whole = np.empty(weight.shape)
    scale, zero = (np.broadcast_to(part, (len(weight), 1))[:, 0] for part in (grid.scale, grid.zero))
    turn = Grid(scale, zero, grid.low, grid.high)
    for i, column in enumerate(order[:-1]):
        whole[:, column] = turn.quantize(columns[:, i])
        error = (columns[:, i] - turn.dequantize(whole[:, column])) / spread[i, i]
        columns[:, i + 1 :] -= np.outer(error, spread[i, i + 1 :])
    return whole, (columns[:, -1] - grid.dequantize(whole) @ mean).astype(np.float32)


def _with_ones(x: np.ndarray) -> np.ndarray:
    """Inputs in float64, and a last one that is always 1 for the bias."""
    return np.column_stack([x, np.ones(len(x))]).astype(np.float64)
