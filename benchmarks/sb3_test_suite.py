"""Stable-Baselines3's own tests of SAC, with AsymSAC in SAC's place.

    python benchmarks/sb3_test_suite.py [--tests DIR] [pytest's own arguments]

downloads the source of the installed SB3, runs those of its tests that use SAC, and writes
``benchmarks/results/sb3_test_suite.json``. What fails is run once more with SAC itself: where that fails too, it is the
machine's. ``--sac`` runs all of them with SAC and writes nothing. The exit code is 0 if nothing fails but ``ON_PURPOSE``.
"""

import argparse
import inspect
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import stable_baselines3
from stable_baselines3 import SAC
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_asym import AsymSAC
from sb3_asym.versions import versions

OUTPUT = Path(__file__).parent / "results" / "sb3_test_suite.json"
ON_PURPOSE = {
    "test_spaces.py::test_action_spaces[CartPole-v1-SAC]": (
        "ValueError: The algorithm only supports",
        "a discrete action space is a ValueError, where SB3 raises an AssertionError",
    ),
    "test_tensorboard.py::test_tensorboard[sac]": ("str(('SAC' + '_1'))", "the TensorBoard run is called AsymSAC"),
    **{
        f"test_save_load.py::test_save_load_policy[{use_sde}-MlpPolicy-SAC]": (
            ">           assert np.allclose(selected_actions_actor, new_selected_actions, 1e-4)",
            "the policy acts as the sub-policy that the master chose, by chance here; actor is the largest one's",
        )
        for use_sde in (False, True)
    },
}
"""By test: what its report contains where it fails for this reason, and the reason."""
ALGORITHM = "SB3_TEST_SUITE_ALGORITHM"
"""Environment variable with the class that the tests get as SAC. Set where pytest imports this file as a plugin."""


# --- the plugin ---

if ALGORITHM in os.environ:
    # Before a test module imports SAC. SB3 itself and our package have the original by now.
    stable_baselines3.SAC = stable_baselines3.sac.SAC = {"SAC": SAC, "AsymSAC": AsymSAC}[os.environ[ALGORITHM]]


def pytest_make_parametrize_id(val: Any) -> str | None:
    """A test has the same id with AsymSAC as with SAC."""
    return "SAC" if val is AsymSAC else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what does not use SAC."""
    config.hook.pytest_deselected(items=[item for item in items if not uses_sac(item)])
    items[:] = [item for item in items if uses_sac(item)]


def uses_sac(item: pytest.Item) -> bool:
    """Whether SAC is the test's parameter, or what it builds where no parameter is an algorithm."""
    parameters = list(item.callspec.params.values()) if hasattr(item, "callspec") else []
    algorithms = [value for value in parameters if inspect.isclass(value) and issubclass(value, BaseAlgorithm)]
    names = [value for value in parameters if value in ("a2c", "ppo", "sac", "td3")]
    if algorithms or names:
        return bool({SAC, AsymSAC} & set(algorithms)) or "sac" in names
    return re.search(r"\bSAC\b", inspect.getsource(item.function)) is not None


# --- the script ---


def download_tests(folder: Path) -> Path:
    """Unpack the source of the installed SB3 with pip, and return the folder of its tests."""
    name = f"stable-baselines3=={version('stable-baselines3')}"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--dest", str(folder)]
    subprocess.run([*pip, name], check=True)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    return next(folder.glob("*/tests"))


def run(algorithm: str, tests: Path, arguments: list[str]) -> dict[str, tuple[str, str, str]]:
    """
    Run pytest on SB3's tests.

    :param algorithm: name of the class that the tests get as SAC
    :param tests: folder of the tests
    :param arguments: pytest's arguments
    :return: by test: "passed", "failed" or "skipped", the error or the reason, and pytest's report of a failure
    """
    here = os.pathsep.join([str(Path(__file__).resolve().parent), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-v", "-p", Path(__file__).stem, "-p", "no:cacheprovider"]
        command += [f"--junit-xml={output}", *arguments]
        subprocess.run(command, cwd=tests, env={**os.environ, "PYTHONPATH": here, ALGORITHM: algorithm}, check=False)
        if not output.exists():
            raise SystemExit("pytest did not run.")
        return dict(read_result(case) for case in ElementTree.parse(output).iter("testcase"))


def read_result(case: ElementTree.Element) -> tuple[str, tuple[str, str, str]]:
    """A test, and its result as ``run`` returns it."""
    test = f"{(case.get('classname') or '').split('.')[-1]}.py::{case.get('name')}"
    for tag, outcome in {"failure": "failed", "error": "failed", "skipped": "skipped"}.items():
        if (found := case.find(tag)) is not None:
            error = [*(found.get("message") or "").splitlines(), ""][0]
            return test, (outcome, error, found.text or "")
    return test, ("passed", "", "")


def main() -> int:
    """Run the tests, print and write what differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tests", type=Path, help="folder of SB3's tests, in place of a download")
    parser.add_argument("--sac", action="store_true", help="run them with SAC itself")
    options, arguments = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        tests = options.tests.resolve() if options.tests else download_tests(Path(folder))
        files = sorted(path.name for path in tests.glob("test_*.py") if re.search(r"\bSAC\b", path.read_text()))
        results = run("SAC" if options.sac else "AsymSAC", tests, [*files, *arguments])
        failed = {test: error for test, (outcome, error, _) in results.items() if outcome == "failed"}
        on_purpose = {test for test in set(failed) & set(ON_PURPOSE) if ON_PURPOSE[test][0] in results[test][2]}
        unexpected = sorted(set(failed) - on_purpose)
        again = run("SAC", tests, unexpected) if unexpected and not options.sac else {}
    with_sac_too = {test for test, (outcome, *_) in again.items() if outcome == "failed"}
    groups: dict[str, dict[str, Any]] = {
        "skipped": {test: reason for test, (outcome, reason, _) in results.items() if outcome == "skipped"},
        "differ_on_purpose": {test: {"error": failed[test], "reason": ON_PURPOSE[test][1]} for test in sorted(on_purpose)},
        "fail_with_sac_too": {test: failed[test] for test in unexpected if test in with_sac_too},
        "failed": {test: failed[test] for test in unexpected if test not in with_sac_too},
    }
    n_passed = sum(outcome == "passed" for outcome, *_ in results.values())
    counts = {"tests": len(results), "passed": n_passed, **{name: len(group) for name, group in groups.items()}}
    text = json.dumps({"counts": counts, **groups, "versions": versions()}, indent=1)
    print(text)
    if not options.sac:
        OUTPUT.write_text(text + "\n")
    return int(bool(groups["failed"]) or not results)


if __name__ == "__main__":
    raise SystemExit(main())
