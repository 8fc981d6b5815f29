"""The exported C code, compiled and run."""

import ctypes
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from export_cases import CASES, STRICT, command, made

from sb3_asym.deployment.recording import replay
from sb3_asym.deployment.runners import ReferenceRunner
from sb3_asym.export.c import write_c
from sb3_asym.export.c_runner import CRunner
from sb3_asym.quantization.ptq import quantize
from sb3_asym.quantization.schemes import parse_precision

CORTEX_M4 = ("arm-none-eabi-gcc", "-mcpu=cortex-m4", "-mthumb", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard")
WRITTEN = {
    "fp32": ("vector", "fp32"),
    "fp16": ("three sub-policies", "fp16"),
    "int8": ("VecNormalize of some keys", "int8"),
    "mixed": ("Softplus", "small=fp16,large=int8"),
    "no hidden layer": ("no hidden layer", "int8"),
    "gSDE": ("gSDE", "fp32"),
    "Discrete": ("PPO, Discrete", "fp32"),
    "clipped": ("A2C, VecNormalize", "fp16"),
    "dial": ("dial", "int8"),
}


def reached(agent, recording):
    """A recording of what the agent itself does."""
    options, actions = replay(ReferenceRunner(agent), agent, recording)
    return type(recording)(recording.observations, recording.episode_starts, options, actions, recording.returns)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Writes the code of one of ``WRITTEN``, once; gives the folder, the agent and what the self-test replays."""
    found = {}

    def write(name):
        if name not in found:
            case, precision = WRITTEN[name]
            _, agent, recording = made(case)
            precisions = parse_precision(precision, tuple(network.name for network in agent.networks))
            agent = quantize(agent, precisions, recording.observations)
            folder, recording = tmp_path_factory.mktemp("c"), reached(agent, recording)
            write_c(agent, recording, folder)
            found[name] = folder, agent, recording
        return found[name]

    return write


@pytest.mark.parametrize("case", CASES)
def test_acts_as_predict_does(case, tmp_path):
    _, agent, recording = made(case)
    write_c(agent, recording, tmp_path)
    options, actions = replay(CRunner(agent, tmp_path), agent, recording)
    np.testing.assert_array_equal(options, recording.options)
    np.testing.assert_allclose(actions, recording.actions, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", WRITTEN)
def test_does_what_the_quantized_layers_do(name, written):
    folder, agent, recording = written(name)
    options, actions = replay(CRunner(agent, folder), agent, recording)
    np.testing.assert_array_equal(options, recording.options)
    # Where a number lies in the middle between two integers, it may be rounded to the other one.
    errors = np.abs(actions - recording.actions).max(1)
    assert errors.max() < 0.05
    assert np.mean(errors > 1e-5) < 0.03 * any(network.precision == "int8" for network in agent.networks) + 1e-9


@pytest.mark.parametrize("compiler", [("gcc", "-O0"), ("gcc", "-O3"), (*CORTEX_M4, "-O2", "-Wdouble-promotion")], ids=" ".join)
@pytest.mark.parametrize("name", WRITTEN)
def test_compiles_without_a_warning(name, compiler, written, tmp_path):
    if not shutil.which(compiler[0]):
        pytest.skip(f"{compiler[0]} is not installed")
    folder, _, _ = written(name)
    command(*compiler, *STRICT, "-Wshadow", "-c", folder / "asym_policy.c", cwd=tmp_path)
    if compiler[-1] == "-O0":
        command(*compiler, *STRICT, "-c", folder / "asym_policy_selftest.c", cwd=tmp_path)


@pytest.mark.parametrize("name", WRITTEN)
def test_object_code_is_small_and_needs_no_memory_of_its_own(name, written, tmp_path):
    folder, agent, _ = written(name)
    command("gcc", *STRICT, "-O2", "-c", folder / "asym_policy.c", cwd=tmp_path)
    sections = command("size", "-A", tmp_path / "asym_policy.o")
    sizes = {name: int(size) for name, size in re.findall(r"^(\.\S+)\s+(\d+)", sections, re.MULTILINE)}
    assert sizes[".data"] == sizes[".bss"] == 0
    total = sum(size for name, size in sizes.items() if name.startswith((".text", ".rodata", ".data", ".eh_frame")))
    assert 0 < total - sum(agent.n_bytes.values()) <= 4096
    needed = set(re.findall(r" U (\w+)", command("nm", tmp_path / "asym_policy.o")))
    made_by_compilers = {"memcpy", "memmove", "memset", "_GLOBAL_OFFSET_TABLE_", "__stack_chk_fail"}
    assert needed <= {"tanhf", "expf", "log1pf", *(["logf"] if agent.dial else [])} | made_by_compilers


@pytest.mark.parametrize("name", ["fp32", "int8", "Discrete"])
def test_self_test(name, written, tmp_path):
    folder, _, recording = written(name)
    code = (folder / "asym_policy_selftest.c").read_text()

    def build(text):
        (tmp_path / "selftest.c").write_text(text)
        sources = [tmp_path / "selftest.c", folder / "asym_policy.c"]
        command("gcc", *STRICT, "-O1", "-I", folder, *sources, "-o", tmp_path / "selftest", "-lm")

    build(code)
    assert f"ok: 0 of {len(recording.options)} steps differ" in command(tmp_path / "selftest")
    other_option = re.sub(r"(options\[N_STEPS\] = \{\s*)(\d+)", lambda found: f"{found[1]}{1 - int(found[2])}", code)
    other_action = re.sub(r"(actions\[N_STEPS\].*\{\s*\{\s*)(\S+)f", lambda found: f"{found[1]}{float(found[2]) + 0.1}f", code)
    nan_action = re.sub(r"(actions\[N_STEPS\].*\{\s*\{\s*)(\S+)f", r"\1NAN", code)
    for altered in (other_option, other_action, nan_action):
        assert altered != code
        build(altered)
        with pytest.raises(AssertionError, match="FAILED: 1 of"):
            command(tmp_path / "selftest")


def test_two_agents_in_one_cpp_program(tmp_path):
    for case, prefix in (("vector", "walker"), ("PPO, Discrete", "arm")):
        _, agent, recording = made(case, n_steps=40)
        write_c(agent, recording, tmp_path, prefix)
        command("gcc", *STRICT, "-O1", "-c", f"{prefix}_policy.c", cwd=tmp_path)
    (tmp_path / "main.cpp").write_text(
        """
        #include "walker_policy.h"
        #include "arm_policy.h"
        #include <cstdio>
        int main()
        {
            walker_state_t walker;
            arm_state_t arm;
            float obs[WALKER_OBS_DIM + ARM_OBS_DIM] = {0}, action[WALKER_ACTION_DIM + ARM_ACTION_DIM];
            walker_reset(&walker);
            arm_reset(&arm);
            int option = walker_step(&walker, obs, action);
            arm_step(&arm, obs, action);
            std::printf("%s %s %d %d", walker_option_names[option], arm_option_names[0], WALKER_OPTION_LENGTH, arm.steps_left);
        }
        """
    )
    flags = [flag for flag in STRICT if flag != "-std=c99"]
    command("g++", *flags, "main.cpp", "walker_policy.o", "arm_policy.o", "-o", "main", "-lm", cwd=tmp_path)
    assert re.fullmatch("(small|large) policy 3 0", command(tmp_path / "main"))


@pytest.mark.parametrize("prefix", ["", "7up", "my-robot", "é", "a b", "_a"])
def test_a_prefix_that_is_no_identifier(prefix, tmp_path):
    _, agent, recording = made("SAC", n_steps=5)
    with pytest.raises(ValueError, match="The prefix must be a C identifier"):
        write_c(agent, recording, tmp_path, prefix)
    assert not list(tmp_path.iterdir())


def memory(driver):
    """All of the state, as bytes."""
    return bytes(driver._state)


def test_an_observation_that_is_not_finite_holds_the_last_action(written):
    folder, agent, recording = written("fp32")
    driver = CRunner(agent, folder)
    for i, value in enumerate([np.nan, np.inf, -np.inf]):
        bad = recording.observations[0].copy()
        bad[i] = value
        driver.reset()
        before = memory(driver)
        assert driver.step(bad)[0] == -1
        np.testing.assert_array_equal(driver.step(bad)[1], [0.5, 0])  # the middle of the bounds
        assert memory(driver) == before
        _, action = driver.step(recording.observations[0])
        before = memory(driver)
        option, held = driver.step(bad)
        assert option == -1
        np.testing.assert_array_equal(held, action)
        assert memory(driver) == before


def test_an_action_that_would_not_be_finite_holds_the_last_one(written, tmp_path):
    folder, agent, recording = written("fp32")
    code = (folder / "asym_policy.c").read_text()
    poisoned = re.sub(r"(float b1_2\[2\] = \{\s*)\S+f", r"\1NAN", code)  # of the large sub-policy's output
    assert poisoned != code
    shutil.copy(folder / "asym_policy.h", tmp_path)
    (tmp_path / "asym_policy.c").write_text(poisoned)
    driver = CRunner(agent, tmp_path)
    first = int(np.flatnonzero(recording.options == 0)[0])
    driver.step(recording.observations[first])
    assert driver._state.option == 0
    driver._state.steps_left = 0
    before, large = (
        memory(driver),
        recording.observations[recording.choices(3)[recording.options[recording.choices(3)] == 1][0]],
    )
    option, action = driver.step(large)
    assert option == -2
    np.testing.assert_allclose(action, recording.actions[first], atol=1e-5)
    assert memory(driver) == before


def test_only_the_chosen_network_runs(written, tmp_path):
    folder, _, recording = written("fp16")
    code = (folder / "asym_policy.c").read_text()
    counted = re.sub(r"(static void network_(\d)\(.*\n\{\n)", r"\1    n_calls[\2]++;\n", code)
    counted = counted.replace("#include <math.h>", "#include <math.h>\nint n_calls[4];")
    assert counted.count("++;") == 4 + code.count("++;")
    shutil.copy(folder / "asym_policy.h", tmp_path)
    (tmp_path / "asym_policy.c").write_text(counted)
    library = tmp_path / "policy.so"
    command("gcc", "-shared", "-fPIC", "-O1", "-o", library, tmp_path / "asym_policy.c", "-lm")
    loaded = ctypes.CDLL(str(library))
    n_calls = (ctypes.c_int * 4).in_dll(loaded, "n_calls")
    state, action = ctypes.create_string_buffer(64), np.zeros(2, dtype=np.float32)
    starts = np.flatnonzero(recording.episode_starts)
    for step, observation in enumerate(recording.observations):
        if step in starts:
            loaded.asym_reset(state)
        before = list(n_calls)
        loaded.asym_step(state, ctypes.c_void_p(observation.ctypes.data), ctypes.c_void_p(action.ctypes.data))
        expected = [int(i == recording.options[step]) for i in range(3)]
        assert [after - b for after, b in zip(n_calls, before, strict=True)] == [*expected, int(step in recording.choices(3))]


def test_an_option_is_held_for_its_length_and_ends_with_the_episode(written):
    folder, agent, recording = written("fp32")
    chosen = agent.choices(recording.observations)
    small, large = (recording.observations[np.flatnonzero(chosen == option)[0]] for option in (0, 1))
    driver = CRunner(agent, folder)
    assert [driver.step(obs)[0] for obs in (small, large, large, large, small, small, small)] == [0, 0, 0, 1, 1, 1, 0]
    driver.reset()
    assert [driver.step(obs)[0] for obs in (large, small)] == [1, 1]
    driver.reset()
    assert [driver.step(obs)[0] for obs in (small, large)] == [0, 0]


def test_header_says_what_goes_in_and_out(written):
    folder, agent, _ = written("int8")
    header = Path(folder / "asym_policy.h").read_text()
    for line in (
        "0 to 2: touch, shape (3,)",
        "3 to 6: achieved_goal, shape (2, 2)",
        "7 to 11: observation, shape (5,)",
        "2 number(s), within [-1, 2], [-3, 3]",
        "they are normalized here",
        f"large 12-16-12-2 (int8, {agent.n_bytes['large']} bytes)",
    ):
        assert line in header
