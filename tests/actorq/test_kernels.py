"""What actors compute, against the deployable form and the export."""

from pathlib import Path

import numpy as np
import pytest
import torch as th
from actorq_cases import make_model
from torch import nn

from sb3_asym.acting.kernels import choose_kernel, compile_kernel, kernel_source, make_kernel
from sb3_asym.acting.networks import Layout, Packer, acting_form
from sb3_asym.deployment import deployable
from sb3_asym.deployment.recording import Recording
from sb3_asym.export.c import write_c
from sb3_asym.export.c_runner import CRunner
from sb3_asym.quantization import quantize
from sb3_asym.shared_memory import WeightBlock

OBSERVATIONS = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)


@pytest.mark.parametrize("runs_in", ["c int8", "c fp16", "c fp32", "onnx int8", "torch fp32"])
@pytest.mark.parametrize("algorithm", ["SAC", "AsymSAC"])
def test_kernels_do_what_the_layers_do(runs_in: str, algorithm: str, tmp_path: Path) -> None:
    kernel, precision = runs_in.split()
    model = make_model(algorithm, policy_kwargs={"net_arch": [24, 16], "activation_fn": nn.ELU})
    agent, is_gaussian = acting_form(model)
    packed = Packer(precision).pack(agent, OBSERVATIONS)
    layout = Layout(packed)
    block = WeightBlock.empty_copy(layout.n_bytes)
    library = compile_kernel(kernel_source(packed, layout), tmp_path) if kernel == "c" else None
    runs = make_kernel(kernel, layout, library)
    for scale in (1.0, 2.0):  # new weights, by the same kernel
        layout.write(packed, 0.25, block)
        runs.load(block)
        for i, network in enumerate(packed.networks):
            for x in OBSERVATIONS[:20]:
                expected = network.forward(th.as_tensor(x[None])).numpy()[0]
                np.testing.assert_allclose(runs.run(i, x.copy()), expected, atol=1e-4 if kernel != "onnx" else 0.02)
        with th.no_grad():
            for parameter in model.policy.parameters():
                parameter *= scale
        packed = Packer(precision).pack(acting_form(model)[0], OBSERVATIONS)
    assert is_gaussian
    assert layout.read(block)[2] == 0.25


def test_int8_outputs_are_those_of_the_exported_code(tmp_path: Path) -> None:
    agent = deployable(make_model("TD3"))
    packed = Packer("int8").pack(agent, OBSERVATIONS)
    layout = Layout(packed)
    block = WeightBlock.empty_copy(layout.n_bytes)
    layout.write(packed, 0.0, block)
    kernel = make_kernel("c", layout, compile_kernel(kernel_source(packed, layout), tmp_path))
    kernel.load(block)
    nothing = np.zeros(1, dtype=np.int64)
    write_c(packed, Recording(OBSERVATIONS[:1], nothing, nothing, np.zeros((1, 1), np.float32), np.zeros(0)), tmp_path)
    runner = CRunner(packed, tmp_path)
    for x in OBSERVATIONS:
        _, action = runner.step(x)
        np.testing.assert_array_equal(packed.as_actions(kernel.run(0, x.copy())[None])[0], action)


def test_int8_is_the_schemes_own() -> None:
    agent = deployable(make_model("DQN"))
    observations = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)  # all of them run through the layers
    packed, expected = Packer("int8").pack(agent, observations), quantize(agent, {"policy": "int8"}, observations)
    for ours, theirs in zip(packed.sub_policies[0].layers, expected.sub_policies[0].layers, strict=True):
        for name in ("weight", "bias", "unit", "ratio", "gain", "zero"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


def test_ranges_widen_at_once_and_shrink_slowly() -> None:
    agent = deployable(make_model("TD3"))
    packer = Packer("int8")
    gains = [float(packer.pack(agent, scale * OBSERVATIONS).sub_policies[0].layers[1].gain[0]) for scale in (1, 10, 1, 1)]
    assert gains[1] < gains[2] < gains[3] < gains[0]


def test_without_a_compiler_onnx_runtime_then_fp32(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    assert choose_kernel("int8") == ("onnx", "int8")
    monkeypatch.setattr("sb3_asym.acting.kernels.find_spec", lambda name: None)
    assert choose_kernel("int8") == ("torch", "fp32")
    assert "the actors run in fp32 instead of int8" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("int4",), "precision must be one of"),
        (("int8", "gpu"), "kernel must be one of"),
        (("int8", "torch"), "no int8 kernel"),
    ],
)
def test_wrong_precisions_and_kernels(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose_kernel(*arguments)
