"""What an export takes: time, instructions, memory, energy."""

import json
import platform
import shutil
import subprocess
import time

import numpy as np
import pytest
from command_line import run
from envs import DriftEnv
from option_cases import set_choice
from stable_baselines3 import SAC

from sb3_asym import AsymSAC
from sb3_asym.bench_export import cortex_m4, energy
from sb3_asym.bench_export.bench import _interface, bench
from sb3_asym.bench_export.footprint import footprint
from sb3_asym.bench_export.instructions import PORTABLE_FLAGS, instructions_per_step, over_predicted
from sb3_asym.export import export_c, export_onnx
from sb3_asym.export.c_runner import CFormat, c_compiler
from sb3_asym.export.folder import read_export

HERE = platform.machine()
needs_valgrind = pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
needs_cortex_m4 = pytest.mark.skipif(
    shutil.which(cortex_m4.COMPILER[0]) is None or shutil.which(cortex_m4.QEMU) is None,
    reason="arm-none-eabi-gcc or qemu-system-arm is not installed",
)
LOOP = 1000
KNOWN_HEADER = """
#define ASYM_OBS_DIM 1
#define ASYM_ACTION_DIM 1
typedef struct { int n; } asym_state_t;
void asym_reset(asym_state_t *state);
int asym_step(asym_state_t *state, const float *obs, float *action);
"""
KNOWN_SOURCE = """
#include "asym_policy.h"
static const float weights[100] = {1.0f};
void asym_reset(asym_state_t *state) { state->n = 0; }
int asym_step(asym_state_t *state, const float *obs, float *action)
{
    int n = 1000;
    __asm volatile("LOOP" : "+r"(n) : : "cc");
    action[0] = weights[state->n++ % 100] * obs[0];
    return 0;
}
"""


def make_model(seed=0, **kwargs):
    archs = dict(sub_net_archs=dict(small=[4], large=[16]), master_net_arch=[8])
    return AsymSAC("MlpPolicy", DriftEnv(), policy_kwargs=archs, option_length=3, seed=seed, device="cpu", **kwargs)


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports") / "c"
    export_c(model, folder, DriftEnv(), prefix="walker", n_eval_episodes=0)
    return folder


@pytest.fixture
def known(tmp_path):
    """Code whose step is a loop of two instructions, 1000 times, and little else."""

    def make(loop):
        (tmp_path / "asym_policy.h").write_text(KNOWN_HEADER)
        (tmp_path / "asym_policy.c").write_text(KNOWN_SOURCE.replace("LOOP", loop))
        return tmp_path

    return make


def test_all_runtimes_with_the_model(exported, model):
    measured = []
    report = bench(exported, model, on_measured=lambda: measured.append(1))
    drivers = ["agent", "small alone", "large alone"]
    for runtime in ("C", "ONNX Runtime", "TorchScript", "predict"):
        for driver in drivers:
            measurement = report.find(runtime, driver)
            assert 0 < measurement.median_ns <= measurement.p99_ns
    assert report.find("C").median_ns < report.find("predict").median_ns
    assert sum(report.option_use.values()) == pytest.approx(1)
    assert report.flops_per_inference > 0
    assert json.loads(json.dumps(report.to_dict()))["measurements"][0]["runtime"] == "C"
    assert "TorchScript" in str(report)
    assert len(measured) >= 4 * len(drivers)


def test_without_the_model_steps_are_told_apart_by_the_option_in_force(exported):
    report = bench(exported)
    used = {f"{name} in force" for name, use in report.option_use.items() if use}
    assert {m.subject for m in report.measurements} == {"agent", *used}
    assert {m.runtime for m in report.measurements} == {"C"}
    assert any("need the model" in reason for reason in report.not_measured)


def test_memory(exported):
    memory = bench(exported).footprint[HERE]
    n_bytes = sum(json.loads((exported / "export.json").read_text())["n_bytes"].values())
    assert memory.flash == memory.code + n_bytes
    assert 0 < memory.code <= 4096
    assert memory.ram >= memory.stack + 12  # the option, its steps left and an action


@needs_valgrind
def test_the_instructions_of_the_agent_follow_from_its_flops(exported, model):
    pytest.importorskip("onnxruntime")
    report = bench(exported, model)
    alone = [report.find("C", f"{name} alone").instructions[HERE] for name in ("small", "large")]
    assert alone[0] < report.find("C").instructions[HERE] < 2 * alone[1]
    assert 0.5 < report.instructions_over_predicted[HERE] < 2


def test_a_straight_line_through_the_sub_policies_predicts_the_agent():
    assert over_predicted(70.0, 3.0, [(1.0, 30.0), (5.0, 70.0)]) == pytest.approx(1.4)


@needs_valgrind
@pytest.mark.skipif(HERE != "x86_64", reason="the loop is written for x86-64")
def test_instructions_of_known_code_on_x86(known):
    folder = known("1: decl %0; jnz 1b")
    count = instructions_per_step(CFormat(), folder, np.ones((20, 1)))
    assert 2 * LOOP < count < 2 * LOOP + 60


@needs_cortex_m4
def test_instructions_of_known_code_on_a_cortex_m4(known):
    counts = cortex_m4.instructions(CFormat(), known("1: subs %0, #1\\n bne 1b"), np.ones((20, 1)))
    assert counts.shape == (20,)
    assert ((counts > 2 * LOOP) & (counts < 2 * LOOP + 60)).all()
    assert np.ptp(counts) <= 10


@needs_cortex_m4
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_self_test_on_a_cortex_m4(model, tmp_path, precision):
    export_c(model, tmp_path / "c", DriftEnv(), precision, n_eval_episodes=1)
    assert cortex_m4.passes_selftest(CFormat(), tmp_path / "c")
    selftest = tmp_path / "c" / "asym_policy_selftest.c"
    text = selftest.read_text()
    actions = text.index("actions[N_STEPS]")
    selftest.write_text(text[:actions] + text[actions:].replace("0.", "5.", 1))
    assert not cortex_m4.passes_selftest(CFormat(), tmp_path / "c")


def test_footprint_of_known_code(known):
    memory = footprint(known("nop") / "asym_policy.c", 400, (c_compiler(), *PORTABLE_FLAGS))
    assert 400 < memory.flash < 800
    assert memory.code == memory.flash - 400


def test_an_onnx_export(model, tmp_path):
    pytest.importorskip("onnxruntime")
    export_onnx(model, tmp_path / "onnx", DriftEnv(), n_eval_episodes=0)
    alone = bench(tmp_path / "onnx")
    assert {m.runtime for m in alone.measurements} == {"ONNX Runtime"}
    assert bench(tmp_path / "onnx", model).find("C", "large alone").median_ns > 0


def test_an_export_with_a_dial(tmp_path):
    """It is measured under the λ that was exported, and its state counts."""
    dialled = make_model(cost_coef=(0.01, 10.0))
    network = dialled.policy.advantage_network
    set_choice(dialled, 0.1 * network.prices / network.scale)  # the large one is chosen where λ < 0.1
    dialled.set_cost_coef(1.0)
    report = export_c(dialled, tmp_path / "c", DriftEnv(), n_eval_episodes=0)
    assert report.format == "c"
    fields = 2 + 1 + 2 + 8 + 2  # option, steps left; action; λ, budget; shifts of the first layer and of the prices
    memory = bench(tmp_path / "c").footprint[HERE]
    assert memory.ram >= memory.stack + 4 * fields
    pytest.importorskip("onnxruntime")
    from sb3_asym.export.onnx_runner import OnnxRunner

    export_onnx(dialled, tmp_path / "onnx", DriftEnv(), n_eval_episodes=0)
    manifest, episode = read_export(tmp_path / "onnx")
    without_networks = OnnxRunner(_interface(manifest, episode), tmp_path / "onnx")
    assert {without_networks.step(DriftEnv().reset(seed=seed)[0])[0] for seed in range(10)} == {0}


def test_tools_that_are_missing_are_named(exported, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    report = bench(exported)
    text = str(report)
    assert report.measurements == ()
    assert "not measured: C, agent: There is no C compiler here" in text
    assert "not measured: self-test on Cortex-M4: arm-none-eabi-gcc is not installed." in text


def test_another_model_is_refused(exported):
    with pytest.raises(ValueError, match="was not exported from this model"):
        bench(exported, make_model(seed=1))


def test_a_model_of_another_env_is_refused(tmp_path):
    small = dict(policy_kwargs=dict(net_arch=[8]), buffer_size=10, device="cpu")
    export_c(SAC("MlpPolicy", DriftEnv(), **small), tmp_path / "c", DriftEnv(), n_eval_episodes=0)
    with pytest.raises(ValueError, match="was not exported from this model"):
        bench(tmp_path / "c", SAC("MlpPolicy", "Pendulum-v1", **small))


def test_a_report_does_not_replace_the_manifest(exported):
    done = run("bench-export", exported, "-o", exported / "export.json")
    assert done.returncode == 2
    assert "belongs to an export: write the report to another file" in done.stderr
    assert read_export(exported)[0]["format"] == "c"


def test_command(exported, model, tmp_path):
    model.save(tmp_path / "agent.zip")
    done = run("bench-export", exported, "--model", tmp_path / "agent.zip", "-o", tmp_path / "report.json")
    assert done.returncode == 0, done.stderr
    assert "p99 µs" in done.stdout
    assert json.loads((tmp_path / "report.json").read_text())["n_steps"] > 0


def test_a_folder_without_an_export_ends_with_one_line(tmp_path):
    done = run("bench-export", tmp_path)
    assert done.returncode == 2
    assert "holds no complete export" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("damaged", ["export.json", "episode.npz"])
def test_a_damaged_export_is_refused(exported, tmp_path, damaged):
    shutil.copytree(exported, tmp_path / "export")
    (tmp_path / "export" / damaged).write_text("{}")
    with pytest.raises(ValueError, match="holds no complete export"):
        bench(tmp_path / "export")


def test_no_meter_no_energy(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FileNotFoundError, match="no energy meter here"):
        energy.find_meter(tmp_path)


def test_rapl_counts_beyond_its_limit(tmp_path):
    zone = tmp_path / "sys/class/powercap/intel-rapl:0"
    cores, platform_zone = (zone.with_name(f"intel-rapl:{number}") for number in ("0:0", "1"))
    for folder, name in ((zone, "package-0"), (cores, "core"), (platform_zone, "psys")):
        folder.mkdir(parents=True)
        (folder / "name").write_text(f"{name}\n")
    (zone / "energy_uj").write_text("9000000")
    (zone / "max_energy_range_uj").write_text("9999999")
    meter = energy.find_meter(tmp_path)
    assert meter.name == "RAPL, 1 processor package"
    script = f"sleep 0.2; echo 2000000 > {zone / 'energy_uj'}"
    with subprocess.Popen(["sh", "-c", script]) as process:
        assert meter.joules(process) == pytest.approx(3.0)


def test_power_is_summed_over_time(tmp_path, monkeypatch):
    monkeypatch.setattr(energy, "IDLE_SECONDS", 0.1)
    folder = tmp_path / "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"
    folder.mkdir(parents=True)
    for name, value in {"in1_label": "VDD_IN", "in1_input": "5000", "curr1_input": "2000"}.items():
        (folder / name).write_text(f"{value}\n")
    meter = energy.find_meter(tmp_path)
    start = time.perf_counter()
    measured = energy.measure(meter, ["sleep", "0.3"], n_steps=10)
    assert measured.watts == pytest.approx(10.0, rel=0.2)
    seconds = 10 * measured.joules_per_step / measured.watts
    assert 0.3 <= seconds <= time.perf_counter() - start - 0.1  # without those of idling


def test_rails_of_a_raspberry_pi():
    rails = ["3V3_SYS_A current(1)=0.1A", "VDD_CORE_A current(7)=2A", "3V3_SYS_V volt(9)=3.3V", "VDD_CORE_V volt(15)=0.75V"]
    printed = "\n ".join([*rails, "EXT5V_V volt(24)=5.1V"])
    assert energy.rail_watts(printed) == pytest.approx(0.33 + 1.5)
    with pytest.raises(OSError, match="no currents and voltages"):
        energy.rail_watts("error=1 error_msg=Command not registered")
