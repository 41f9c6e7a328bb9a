"""Metrics, one file each: pure functions of a measurement and one of its windows."""
