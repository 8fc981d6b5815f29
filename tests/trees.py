"""Nested dicts and lists, such as the parameters of an agent."""

import numpy as np
import torch as th


def assert_same_tree(first, second):
    """Nested dicts and lists with equal tensors and values."""
    first_leaves, first_shape = th.utils._pytree.tree_flatten(first)
    second_leaves, second_shape = th.utils._pytree.tree_flatten(second)
    assert first_shape == second_shape
    for left, right in zip(first_leaves, second_leaves, strict=True):
        np.testing.assert_array_equal(left, right)
