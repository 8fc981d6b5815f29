"""What a control process asks of the operating system."""

import multiprocessing
from pathlib import Path

import pytest

from sb3_asym.cloud_edge.real_time import become_real_time


def _locked(results):
    is_fifo = become_real_time(10)
    status = Path("/proc/self/status").read_text()
    results.put((is_fifo, int(status.split("VmLck:")[1].split()[0])))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is locked on Linux")
def test_memory_is_locked_with_the_priority():
    import resource

    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=_locked, args=(results,))
    process.start()
    is_fifo, n_locked = results.get(timeout=120)
    process.join()
    if not is_fifo:
        pytest.skip("no real-time priority here")
    if resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] != resource.RLIM_INFINITY and n_locked == 0:
        pytest.skip("memory may not be locked here")
    assert n_locked > 0
