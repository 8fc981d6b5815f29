"""Energy of a step by the machine's own meter: RAPL, a Jetson's INA3221, or the power chip of a Raspberry Pi 5."""

import re
import shutil
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

SAMPLE_SECONDS, IDLE_SECONDS = 0.02, 2.0


class Meter(Protocol):
    """
    Interface of an energy meter.

    :param name: name of the meter and of the parts of the machine that it measures
    """

    name: str

    def joules(self, process: "subprocess.Popen[bytes]") -> float:
        """
        Measure energy until a process ends.

        :param process: process that was just started
        :return: energy of the metered parts of the machine, J
        """


class Energy(NamedTuple):
    """
    Energy of a step, and the power of the machine with and without the agent.

    :param meter: name of the meter and of the parts of the machine that it measures
    :param joules_per_step: energy of a step, J, where steps follow each other without a pause
    :param watts: mean power with the agent, W
    :param idle_watts: mean power of the idle machine, before the agent started, W
    """

    meter: str
    joules_per_step: float
    watts: float
    idle_watts: float


class Rapl:
    """
    Meter that reads the energy counters of Intel's and AMD's processors.

    :param zones: folders in ``/sys/class/powercap``, one for each processor package
    """

    def __init__(self, zones: list[Path]):
        self._zones = zones
        self.name = f"RAPL, {len(zones)} processor package{'s' if len(zones) > 1 else ''}"

    def joules(self, process: "subprocess.Popen[bytes]") -> float:
        """Energy of all processor packages until a process ends, J."""
        before = self._read("energy_uj")
        process.wait()
        after, limit = self._read("energy_uj"), self._read("max_energy_range_uj")
        microjoules = 0
        for start, end, greatest in zip(before, after, limit, strict=True):
            # A counter restarts at zero after its greatest value, which it reaches within minutes.
            microjoules += (end - start) % (greatest + 1)
        return 1e-6 * microjoules

    def _read(self, name: str) -> list[int]:
        """Number in the file of this name, for each zone."""
        return [int((zone / name).read_text()) for zone in self._zones]


class PowerMeter:
    """
    Meter that adds up a power, which it reads every few milliseconds.

    :param name: name of the meter and of the parts of the machine that it measures
    :param watts: function that reads the power, W
    """

    def __init__(self, name: str, watts: Callable[[], float]):
        self.name, self._watts = name, watts

    def joules(self, process: "subprocess.Popen[bytes]") -> float:
        """Energy until a process ends, J."""
        joules, last = 0.0, time.perf_counter()
        while process.poll() is None:
            power = self._watts()
            time.sleep(SAMPLE_SECONDS)
            now = time.perf_counter()
            joules += power * (now - last)
            last = now
        return joules


def find_meter(root: Path = Path("/")) -> Meter:
    """
    Find the energy meter of this machine.

    :param root: root of the file system
    :return: the meter
    :raises FileNotFoundError: if there is no meter, or none that this user may read
    """
    # The cores of a package, and on some machines the whole platform, have further zones, which would be counted twice.
    names = sorted(root.glob("sys/class/powercap/intel-rapl:*/name"))
    zones = [name.parent for name in names if name.read_text().startswith("package")]
    try:
        if zones and all((zone / "energy_uj").read_text() for zone in zones):
            return Rapl(zones)
    except PermissionError as error:
        raise FileNotFoundError("the energy meter, RAPL, may be read by root only.") from error
    for folder in sorted(root.glob("sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*")):
        for label in sorted(folder.glob("in*_label")):
            if label.read_text().strip() in ("VDD_IN", "VIN_SYS_5V0", "SYS_VIN_HV"):
                channel = label.name.removeprefix("in").removesuffix("_label")
                return PowerMeter(f"INA3221, {label.read_text().strip()}", partial(_ina3221, folder, channel))
    if shutil.which("vcgencmd"):
        _pmic()  # only a Raspberry Pi 5 answers
        return PowerMeter("Raspberry Pi's power chip, all rails", _pmic)
    raise FileNotFoundError("no energy meter here.")


def measure(meter: Meter, command: list[str], n_steps: int) -> Energy:
    """
    Measure the energy of a step.

    :param meter: energy meter of this machine
    :param command: program and arguments that make the steps, for a second or longer
    :param n_steps: number of steps
    :return: energy of a step, J, and mean power, W
    """

    def run(command: list[str]) -> tuple[float, float]:
        start = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            joules = meter.joules(process)
        return joules, time.perf_counter() - start

    idle_joules, idle_seconds = run(["sleep", str(IDLE_SECONDS)])
    joules, seconds = run(command)
    return Energy(meter.name, joules / n_steps, joules / seconds, idle_joules / idle_seconds)


def _ina3221(folder: Path, channel: str) -> float:
    """Power of a channel, W, from its voltage in mV and its current in mA."""
    return 1e-6 * int((folder / f"in{channel}_input").read_text()) * int((folder / f"curr{channel}_input").read_text())


def _pmic() -> float:
    """Power of all rails of a Raspberry Pi 5, W."""
    printed = subprocess.run(["vcgencmd", "pmic_read_adc"], check=True, capture_output=True, text=True).stdout
    return rail_watts(printed)


def rail_watts(printed: str) -> float:
    """
    Power of the rails of which current and voltage are known.

    :param printed: output of ``vcgencmd pmic_read_adc``, with lines such as ``3V3_SYS_A current(1)=0.06A`` and
        ``3V3_SYS_V volt(9)=3.3V``
    :return: sum over the rails, W
    :raises OSError: if the output names no such rail, as on boards before the Raspberry Pi 5
    """
    amperes = dict(re.findall(r"(\w+)_A \w+\(\d+\)=([\d.]+)A", printed))
    volts = dict(re.findall(r"(\w+)_V \w+\(\d+\)=([\d.]+)V", printed))
    rails = amperes.keys() & volts.keys()
    if not rails:
        raise OSError("vcgencmd knows no currents and voltages here.")
    return sum(float(amperes[rail]) * float(volts[rail]) for rail in sorted(rails))
