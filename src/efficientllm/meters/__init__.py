"""What is read while a trial runs: a sampler in a process of its own, and marks inside the measured one."""
