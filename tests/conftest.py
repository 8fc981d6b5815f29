import os

os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"  # nobody is there; read when huggingface_hub is imported

import pytest
import torch as th
from envs import DriftEnv

from sb3_asym import AsymSAC


@pytest.fixture(autouse=True, scope="session")
def single_thread():
    """Results are the same on every machine, and tests that run side by side do not slow each other down."""
    th.set_num_threads(1)


@pytest.fixture
def make_agent():
    """Builds a tiny agent; keyword arguments replace its settings."""

    def make(env=None, policy="MlpPolicy", **kwargs):
        settings = dict(
            option_length=3,
            seed=0,
            fast_update=False,  # compiling takes longer than these tests
            device="cpu",
            learning_starts=20,
            batch_size=16,
            buffer_size=1000,
            policy_kwargs=dict(sub_net_archs=dict(small=[4], large=[16]), master_net_arch=[8]),
        )
        return AsymSAC(policy, DriftEnv() if env is None else env, **{**settings, **kwargs})

    return make
