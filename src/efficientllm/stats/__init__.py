"""Intervals, comparisons, verdicts and stopping rules, as `docs/statistics.md` derives them. No torch."""
