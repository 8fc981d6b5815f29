"""Cloud-edge."""
