"""Actors and learners that are killed: a short run of the benchmark that kills them more often."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "actorq_faults.py"
N_KILLS = 3


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="looks into Linux's /dev/shm")
def test_nothing_is_lost_but_what_was_in_flight(tmp_path: Path) -> None:
    output = tmp_path / "faults.json"
    subprocess.run([sys.executable, SCRIPT, "--kills", str(N_KILLS), "--output", output], check=True, timeout=300)
    found = json.loads(output.read_text())
    actors, learner = found["actors"], found["learner"]
    assert actors["kills"] == actors["replaced"] == actors["episodes_truncated"] == N_KILLS
    assert actors["doubled"] == 0
    assert actors["only_those_in_flight"]
    assert actors["sequences_without_a_gap"]
    assert learner["shared_memory_left"] == 0
    assert learner["seconds_until_actors_ended"]["greatest"] < 5
    assert learner["went_on_from_env_steps"] == sorted(learner["went_on_from_env_steps"])
    assert learner["went_on_from_env_steps"][-1] >= 200
