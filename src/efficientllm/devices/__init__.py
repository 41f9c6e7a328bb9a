"""The hardware: what it is, what its sensors say, how to wait for it, and what it can reach at most."""
