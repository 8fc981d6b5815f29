"""Energy that the machine's own meter sees: RAPL, a Jetson's INA3221, or the power chip of a Raspberry Pi 5."""

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
    Measures energy.

    :param name: what is metered
    """

    name: str

    def joules(self, process: "subprocess.Popen[bytes]") -> float:
        """
        :param process: that was just started
        :return: energy until its end, of all that is metered
        """


class Energy(NamedTuple):
    """
    :param meter: what is metered
    :param joules_per_step: of all that is metered, while steps follow each other without a pause
    :param watts: mean power meanwhile
    :param idle_watts: mean power of the machine before, without the agent
    """

    meter: str
    joules_per_step: float
    watts: float
    idle_watts: float


class Rapl:
    """
    Intel's and AMD's energy counters.

    :param zones: folders of ``/sys/class/powercap``, one for each processor package
    """

    def __init__(self, zones: list[Path]):
        self._zones = zones
        self.name = f"RAPL, {len(zones)} processor package{'s' if len(zones) > 1 else ''}"

    def joules(self, process: "subprocess.Popen[bytes]") -> float:
        before = self._read("energy_uj")
        process.wait()
        after, limit = self._read("energy_uj"), self._read("max_energy_range_uj")
        # A counter starts again after its limit, which takes minutes.
        return 1e-6 * sum((b - a) % (top + 1) for a, b, top in zip(before, after, limit, strict=True))

    def _read(self, name: str) -> list[int]:
        return [int((zone / name).read_text()) for zone in self._zones]


class PowerMeter:
    """
    Adds up a power that is read every few milliseconds.

    :param name: what is metered
    :param watts: reads the power
    """

    def __init__(self, name: str, watts: Callable[[], float]):
        self.name, self._watts = name, watts

    def joules(self, process: "subprocess.Popen[bytes]") -> float:
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
    :param root: of the file system
    :return: the meter of this machine
    :raises FileNotFoundError: if it has none, or none that may be read
    """
    # A package's cores, and on some machines the platform as a whole, have zones of their own.
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
    :param meter: of this machine
    :param command: makes so many steps; it should run for a second or longer
    :param n_steps: how many
    :return: the energy of a step
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
    """Millivolts times milliamperes."""
    return 1e-6 * int((folder / f"in{channel}_input").read_text()) * int((folder / f"curr{channel}_input").read_text())


def _pmic() -> float:
    """Sum over the rails of which current and voltage are known."""
    printed = subprocess.run(["vcgencmd", "pmic_read_adc"], check=True, capture_output=True, text=True).stdout
    return rail_watts(printed)


def rail_watts(printed: str) -> float:
    """
    :param printed: what ``vcgencmd pmic_read_adc`` says, such as ``3V3_SYS_A current(1)=0.06A`` and ``3V3_SYS_V volt(9)=3.3V``
    :return: power of all rails
    :raises OSError: if it says nothing of the kind, as on boards before the Raspberry Pi 5
    """
    amperes, volts = (dict(re.findall(rf"(\w+)_{unit} \w+\(\d+\)=([\d.]+){unit}", printed)) for unit in "AV")
    rails = amperes.keys() & volts.keys()
    if not rails:
        raise OSError("vcgencmd knows no currents and voltages here.")
    return sum(float(amperes[rail]) * float(volts[rail]) for rail in sorted(rails))
