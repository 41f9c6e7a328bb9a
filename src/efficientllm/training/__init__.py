"""Training: one optimiser step after another, exactly repeatable, with what saves memory and time as settings.

What is measured, and when, is the workloads' part; nothing here knows of windows or records.
"""
