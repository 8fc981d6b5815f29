"""One gradient step of all sub-policies and of the master: in plain torch, or as compiled graphs."""
