"""Grids in numbers, and schemes as text."""

import numpy as np
import pytest
import torch as th

from sb3_asym.quantization import Scheme
from sb3_asym.quantization.schemes import activation_grid, fake_quantize, int8_weight_grid, range_grid, weight_grid

TEXTS = ["fp32", "fp16", "int8", "int4", "w4", "w4a8", "w2-tensor", "w3-affine", "w8-tensor-affine", "w4-gptq", "int8-gptq"]


def random_weights(shape=(6, 9)):
    return np.random.default_rng(0).normal(0.3, 1, shape).astype(np.float32)


@pytest.mark.parametrize("text", TEXTS)
def test_a_scheme_reads_its_own_name(text):
    assert Scheme.parse(text).name == text
    assert Scheme.parse(Scheme.parse(text)) == Scheme.parse(text)


def test_what_a_text_means():
    assert Scheme.parse("w8a8") == Scheme.parse("int8") == Scheme(8, 8, per_output=True, symmetric=True)
    assert Scheme.parse("w4-tensor-affine") == Scheme(4, None, per_output=False, symmetric=False)
    assert Scheme.parse("w4a6-gptq") == Scheme(4, 6, gptq=True)
    assert Scheme.parse("fp16").is_float
    assert [text for text in TEXTS if Scheme.parse(text).is_integer] == ["int8", "int8-gptq"]


@pytest.mark.parametrize("text", ["", "int", "w", "w4a", "fp8", "w4-affine-tensor", "4", "int8 ", "fp16-tensor"])
def test_other_texts_are_refused(text):
    with pytest.raises(ValueError, match="A scheme is fp16, or bits such as int8"):
        Scheme.parse(text)


@pytest.mark.parametrize("settings", [(1,), (9,), (4, 1), (4, 9), (4, 16)])
def test_bits_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match="A scheme takes 2 to 8 bits"):
        Scheme(*settings)
    with pytest.raises(ValueError, match="fp16 has no grid"):
        Scheme(16, 8)


@pytest.mark.parametrize("per_output", [True, False])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_weights_lie_on_a_grid_at_most_half_a_step_away(bits, symmetric, per_output):
    weight = random_weights()
    grid = weight_grid(weight, Scheme(bits, None, per_output, symmetric))
    quantized = fake_quantize(weight, grid)
    assert np.all(np.abs(quantized - weight) <= grid.scale * 0.5001)
    rows = quantized if per_output else quantized.reshape(1, -1)
    assert max(len(np.unique(row)) for row in rows) <= 2**bits - symmetric
    assert grid.scale.shape == ((6, 1) if per_output else (1, 1))
    # A number of the grid stays where it is, and 0 is one.
    assert np.array_equal(fake_quantize(quantized, grid), quantized)
    assert np.all(fake_quantize(np.zeros_like(weight), grid) == 0)
    whole = grid.quantize(weight)
    assert np.array_equal(whole, np.rint(whole))
    assert grid.low <= whole.min() <= whole.max() <= grid.high


def test_a_symmetric_grid_has_no_zero_point():
    grid = weight_grid(random_weights(), Scheme(4))
    assert (grid.low, grid.high) == (-7, 7)
    assert not np.any(grid.zero)


def test_an_affine_grid_fits_a_lopsided_range_better():
    weight = np.abs(random_weights())
    errors = [
        np.abs(fake_quantize(weight, weight_grid(weight, Scheme(4, symmetric=s))) - weight).mean() for s in (True, False)
    ]
    assert errors[1] < 0.6 * errors[0]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_grid_for_each_output_is_never_coarser(bits, symmetric):
    weight = random_weights() * np.geomspace(0.01, 10, 6, dtype=np.float32)[:, None]
    each, one = (weight_grid(weight, Scheme(bits, None, per_output, symmetric)) for per_output in (True, False))
    assert np.all(each.scale <= one.scale * 1.0001)
    assert np.abs(fake_quantize(weight, each) - weight).mean() < 0.8 * np.abs(fake_quantize(weight, one) - weight).mean()


def test_more_bits_are_nearer():
    weight = random_weights()
    errors = [np.abs(fake_quantize(weight, weight_grid(weight, Scheme(bits))) - weight).mean() for bits in range(2, 9)]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("scheme", [Scheme(3), Scheme(5, None, False, False)])
@pytest.mark.parametrize("shape", [(6, 9), (4, 3, 5, 5)])
def test_torch_gives_what_numpy_gives(scheme, shape):
    weight = random_weights(shape)
    ours = fake_quantize(weight, weight_grid(weight, scheme))
    theirs = fake_quantize(th.as_tensor(weight), weight_grid(th.as_tensor(weight), scheme))
    assert isinstance(theirs, th.Tensor)
    assert ours.shape == shape
    assert np.array_equal(ours, theirs.numpy())


@pytest.mark.parametrize("first", [True, False])
def test_activations_in_torch_and_numpy(first):
    low, high = np.array([-2.0, 0.5, 3.0], dtype=np.float32), np.array([-1.0, 4.0, 3.0], dtype=np.float32)
    ours = activation_grid(low, high, 8, first)
    theirs = activation_grid(th.as_tensor(low), th.as_tensor(high), 8, first)
    assert np.array_equal(ours.scale, theirs.scale.numpy())
    assert np.array_equal(ours.zero, theirs.zero.numpy())
    assert ours.scale.shape == ((3,) if first else (1,))
    ends = np.stack([low, high])
    assert np.all(np.abs(fake_quantize(ends, ours) - ends) <= ours.scale * 0.5001)
    if not first:
        assert fake_quantize(np.zeros(1, dtype=np.float32), ours) == 0


def test_scales_of_int8_are_multiples_of_one_unit_in_torch_too():
    weight, bias = random_weights(), np.linspace(-1, 1, 6, dtype=np.float32)
    grid, unit, ratio = int8_weight_grid(weight, bias, Scheme(8, 8))
    assert np.array_equal(ratio, np.rint(ratio))
    assert 1 <= ratio.min() <= ratio.max() == 65535
    assert np.all(grid.scale >= weight_grid(weight, Scheme(8, 8)).scale)
    assert np.allclose(grid.scale, weight_grid(weight, Scheme(8, 8)).scale, rtol=1e-3)
    theirs, their_unit, their_ratio = int8_weight_grid(th.as_tensor(weight), th.as_tensor(bias), Scheme(8, 8))
    assert np.array_equal(grid.scale, theirs.scale.numpy())
    assert unit == their_unit.item()
    assert np.array_equal(ratio, their_ratio.numpy())


def test_a_straight_through_gradient_ends_where_the_grid_does():
    grid = range_grid(th.tensor(-1.0), th.tensor(1.0), 4)
    x = th.tensor([-3.0, -0.5, 0.0, 0.7, 3.0], requires_grad=True)
    y = fake_quantize(x, grid)
    assert grid.reaches(x).tolist() == [False, True, True, True, False]
    assert th.all(y[[0, 4]].abs() <= 1.1)


def test_numbers_that_are_all_equal_have_a_grid():
    for value in (0.0, 0.25, -3.0):
        weight = np.full((2, 3), value, dtype=np.float32)
        for scheme in (Scheme(2), Scheme(2, symmetric=False)):
            assert np.allclose(fake_quantize(weight, weight_grid(weight, scheme)), weight)
