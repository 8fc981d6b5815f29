"""Cloud-edge training: the robot acts in real time, the cloud learns, and no transition is lost. Needs the extra ``cloud``."""
