"""Cloud-edge training: the robot acts in real time, the cloud learns, and no transition is lost. Needs the extra ``cloud``."""

from sb3_asym.cloud_edge.action_history import ActionHistory
from sb3_asym.cloud_edge.cloud import CloudLearner
from sb3_asym.cloud_edge.edge import EdgeRunner, drain
from sb3_asym.cloud_edge.pretraining import RandomizedEnv, make_robot, pretrain
from sb3_asym.cloud_edge.report import EdgeReport
from sb3_asym.cloud_edge.robot_process import RobotProcess

__all__ = [
    "ActionHistory",
    "CloudLearner",
    "EdgeReport",
    "EdgeRunner",
    "RandomizedEnv",
    "RobotProcess",
    "drain",
    "make_robot",
    "pretrain",
]
