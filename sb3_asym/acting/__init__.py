"""Networks that act and explore outside of the learner: their numbers in a block of memory, what runs them, and the policy."""
