"""From stored measurements to tables: metrics, comparison, Pareto. Pure, no torch."""
