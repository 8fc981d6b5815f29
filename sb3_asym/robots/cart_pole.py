"""Swing-up of a pole on a cart, in MuJoCo, with the dynamics to set. Needs the extra ``mujoco``."""

from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from gymnasium import spaces
from gymnasium.envs.mujoco import MujocoEnv

from sb3_asym.robots.delay import CommandDelay

PHYSICS_HZ = 500


class CartPoleSwingUp(MujocoEnv):
    r"""
    A cart on a rail swings its pole up and holds it there.

    Masses and length are those of the inverted pendulum of Cao et al. 2022, "Cloud-Edge Training Architecture for Sim-to-Real
    Deep Reinforcement Learning", arXiv 2203.02230, and so is the range of frictions (0, 5, 10, 12 and 16 there). What differs:
    the rail is longer (there ±0.3 m), the reward is smooth (there it is sparse), and the motor's force is commanded.

    Observation: position of the cart divided by half the rail, sine and cosine of the pole's angle (0: upright), velocity of
    the cart, m/s, angular velocity of the pole divided by 10, rad/s. Action: force of the motor in units of 20 N. Reward of a
    step: :math:`(1 + \cos\theta)/2 - 0.2\,(x/\text{rail})^2 - 0.01\,a^2`. An episode starts with the pole hanging, lasts 5 s,
    and terminates where the cart reaches the end of the rail.

    :param hz: control steps per second; a divisor of 500
    :param cart_mass: mass of the cart, kg
    :param pole_mass: mass of the pole, kg
    :param pole_length: length of the pole, m
    :param friction: viscous friction of the cart, N·s/m
    :param coulomb_friction: Coulomb friction of the cart, N
    :param delay: time from a command to its force, s
    :param rail: greatest distance of the cart from the middle, m
    :param render_mode: as in Gymnasium
    :raises ValueError: if a number is out of range
    """

    metadata = {"render_modes": ["human", "rgb_array", "depth_array"]}

    def __init__(
        self,
        hz: int = 50,
        cart_mass: float = 0.94,
        pole_mass: float = 0.23,
        pole_length: float = 0.64,
        friction: float = 5.0,
        coulomb_friction: float = 0.0,
        delay: float = 0.0,
        rail: float = 0.6,
        render_mode: str | None = None,
    ):
        if hz <= 0 or PHYSICS_HZ % hz:
            raise ValueError(f"hz must be a divisor of {PHYSICS_HZ}, such as 25, 50 or 100, got {hz}.")
        if min(cart_mass, pole_mass, pole_length, rail) <= 0 or min(friction, coulomb_friction) < 0:
            raise ValueError("Masses, pole_length and rail must be above 0, and frictions at least 0.")
        self.rail = rail
        self.metadata = {**self.metadata, "render_fps": hz}
        self._delay = CommandDelay(round(delay * PHYSICS_HZ), np.zeros(1, dtype=np.float32))
        space = spaces.Box(-np.inf, np.inf, (5,), np.float32)
        path = str(Path(__file__).with_name("cart_pole.xml"))
        super().__init__(path, PHYSICS_HZ // hz, space, render_mode=render_mode, camera_name="side")
        model = self.model
        slider, pole = model.joint("slider"), model.geom("pole")
        model.body("cart").mass[:] = cart_mass
        model.dof_damping[slider.dofadr] = friction
        model.dof_frictionloss[slider.dofadr] = coulomb_friction
        pole.size[1] = pole_length / 2
        pole.pos[2] = model.body("pole").ipos[2] = pole_length / 2
        model.body("pole").mass[:] = pole_mass
        inertia = pole_mass * pole_length**2 / 12
        model.body("pole").inertia[:] = [inertia, inertia, pole_mass * 0.008**2 / 2]
        mujoco.mj_setConst(model, self.data)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        """Apply a force for one control step."""
        command = np.clip(action, -1, 1)
        for _ in range(self.frame_skip):
            self.data.ctrl[:] = self._delay(command)
            mujoco.mj_step(self.model, self.data)
        position, angle = self.data.qpos
        reward = (1 + np.cos(angle)) / 2 - 0.2 * (position / self.rail) ** 2 - 0.01 * float(command[0]) ** 2
        if self.render_mode == "human":
            self.render()
        return self._observation(), float(reward), bool(abs(position) >= self.rail), False, {}

    def reset_model(self) -> np.ndarray:
        """Let the pole hang in the middle of the rail, nearly at rest."""
        self._delay.reset()
        noise = self.np_random.uniform(-0.05, 0.05, size=4)
        self.set_state(np.array([0.0, np.pi]) + noise[:2], noise[2:])
        return self._observation()

    def safe_stop(self) -> None:
        """Take the force off, which friction then stops."""
        self.data.ctrl[:] = 0

    def _observation(self) -> np.ndarray:
        (position, angle), (velocity, spin) = self.data.qpos, self.data.qvel
        return np.array([position / self.rail, np.sin(angle), np.cos(angle), velocity, spin / 10], dtype=np.float32)
