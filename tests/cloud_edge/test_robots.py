"""Simulated robots: their dynamics, their process, and the last actions in their observations."""

import time

import gymnasium as gym
import numpy as np
import pytest

from sb3_asym.cloud_edge import ActionHistory, RandomizedEnv, RobotProcess, make_robot, pretrain
from sb3_asym.envs import make_env


def test_action_history():
    env = ActionHistory(make_env("Pendulum-v1"), 3)
    observation, _ = env.reset(seed=0)
    np.testing.assert_array_equal(observation[3:], 0)
    for action in (1.0, -2.0):
        observation, *_ = env.step(np.array([action], dtype=np.float32))
    np.testing.assert_array_equal(observation[3:], [0, 1, -2])
    assert env.observation_space.contains(observation)
    np.testing.assert_array_equal(env.reset()[0][3:], 0)
    for k, message in ((0, "k must be"), (1.5, "k must be")):
        with pytest.raises(ValueError, match=message):
            ActionHistory(make_env("Pendulum-v1"), k)
    with pytest.raises(ValueError, match="needs vectors"):
        ActionHistory(gym.make("CartPole-v1"), 2)


def swing(env, torque, n_steps=10):
    env.reset(seed=3)
    return np.array([env.step(np.array([torque], dtype=np.float32))[0] for _ in range(n_steps)])


def test_pendulum_is_gymnasiums_unless_it_is_changed():
    np.testing.assert_allclose(swing(make_env("ChangedPendulum-v0"), 1.0), swing(make_env("Pendulum-v1"), 1.0))
    late = swing(make_env("ChangedPendulum-v0", delay=3), 2.0)
    at_rest, pushed = swing(make_env("Pendulum-v1"), 0.0), swing(make_env("Pendulum-v1"), 2.0)
    np.testing.assert_allclose(late[:3], at_rest[:3])
    assert not np.allclose(late[3], at_rest[3])
    assert not np.allclose(late[3], pushed[3])
    assert abs(swing(make_env("ChangedPendulum-v0", friction=5.0), 0.0)[-1, 2]) < abs(at_rest[-1, 2])
    with pytest.raises(ValueError, match="mass and length"):
        make_env("ChangedPendulum-v0", mass=0)


def cart(**kwargs):
    """A cart that was pushed for a fifth of a second, and what its last step returned; the place from where it started."""
    pytest.importorskip("mujoco")
    env = make_env("CartPoleSwingUp-v0", **kwargs).unwrapped
    start = env.reset(seed=0)[0][0]
    for _ in range(10):
        observation, reward, *_ = env.step(np.array([0.2], dtype=np.float32))
    return env, observation - start * np.eye(5, dtype=np.float32)[0], reward


def test_cart_pole():
    env, observation, reward = cart()
    assert env.observation_space.contains(observation)
    assert reward < 0.2  # it hangs
    push = observation[0]
    assert push > 0
    assert 0 < cart(friction=16.0)[1][0] < push
    assert abs(cart(coulomb_friction=5.0)[1][0]) < 0.3 * push
    assert 0 < cart(delay=0.1)[1][0] < push
    assert cart(cart_mass=3.0)[1][0] < push
    np.testing.assert_allclose([env.model.body("cart").mass[0], env.model.body("pole").mass[0]], [0.94, 0.23])
    length = cart(pole_length=1.0)[0]
    assert length.model.body("pole").ipos[2] == pytest.approx(0.5)
    env.set_state(np.zeros(2), np.zeros(2))
    assert env.step(np.zeros(1))[1] == pytest.approx(1.0, abs=0.01)
    for _ in range(100):
        *_, terminated, _, _ = env.step(np.ones(1))
        if terminated:
            break
    assert terminated
    with pytest.raises(ValueError, match="divisor of 500"):
        make_env("CartPoleSwingUp-v0", hz=60)


def test_randomized_dynamics():
    env = RandomizedEnv("ChangedPendulum-v0", {"mass": (0.5, 1.5), "delay": (0, 2)})
    masses, delays = set(), set()
    env.reset(seed=0)
    for _ in range(20):
        env.reset()
        masses.add(env.env.unwrapped.m)
        delays.add(env.env.unwrapped._delay._n_steps)
    assert len(masses) == 20
    assert delays == {0, 1, 2}
    assert 0.5 <= min(masses) < 0.9 < 1.1 < max(masses) <= 1.5
    with pytest.raises(ValueError, match="from low to high"):
        RandomizedEnv("ChangedPendulum-v0", {"mass": (2, 1)})


def test_pretrain(tmp_path):
    kwargs = dict(history=2, ranges={"mass": (0.9, 1.1)}, learning_starts=10, policy_kwargs=dict(net_arch=[4]), seed=0)
    model = pretrain("ChangedPendulum-v0", 40, tmp_path / "sim.zip", "TD3", **kwargs)
    assert (tmp_path / "sim.zip").is_file()
    assert model.observation_space == make_robot("ChangedPendulum-v0", 2).observation_space
    with pytest.raises(ValueError, match="algorithm must be one of"):
        pretrain("ChangedPendulum-v0", 40, tmp_path / "sim.zip", "PPO")


def test_a_robot_whose_process_died_is_noticed():
    env = RobotProcess("ChangedPendulum-v0", hz=200.0)
    try:
        env.reset(seed=0)
        env.step(env.action_space.sample())
        env._process.kill()
        env._process.join()
        with pytest.raises(RuntimeError, match=r"The robot process has ended \(exit code -9\)"):
            env.step(env.action_space.sample())
    finally:
        env.close()


def test_robot_goes_on_in_real_time_without_commands():
    robot = RobotProcess("ChangedPendulum-v0", hz=50)
    try:
        robot.reset(seed=0)
        before = robot.step(np.array([0.5], dtype=np.float32))
        time.sleep(0.5)
        after = robot.step(np.array([0.5], dtype=np.float32))
        assert after[4]["robot_steps"] - before[4]["robot_steps"] > 5
        assert not np.array_equal(before[0], after[0])
        robot.reset()
        assert robot.step(np.zeros(1))[4]["robot_steps"] >= after[4]["robot_steps"]
    finally:
        robot.close()
    assert not robot._process.is_alive()
