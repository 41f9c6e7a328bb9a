"""Learning-rate schedules: one file each, the folder is the registry."""
