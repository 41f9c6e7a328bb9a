"""The front: who beats whom, and who cannot be said to."""

from __future__ import annotations

from efficientllm.analysis.pareto import Axis, front
from efficientllm.analysis.table import Cell

TIME, BITS = Axis("time", "low", 0.02), Axis("bits", "low", 0.01)


def cell(*values: float) -> Cell:
    return Cell(value=sum(values) / len(values), values=dict(enumerate(values)))


def test_a_row_that_is_better_everywhere_beats():
    rows = {
        "good": {"time": cell(1.0, 1.01, 1.02), "bits": cell(2.0, 2.01, 2.02)},
        "bad": {"time": cell(2.0, 2.01, 2.05), "bits": cell(3.0, 3.03, 3.01)},
    }
    assert front(rows, [TIME, BITS]) == {"good": (), "bad": ("good",)}


def test_better_in_one_and_equivalent_in_the_other_beats():
    rows = {
        "good": {"time": cell(1.0, 1.01, 1.02), "bits": cell(2.0, 2.011, 2.02)},
        "bad": {"time": cell(2.0, 2.01, 2.05), "bits": cell(2.001, 2.01, 2.021)},
    }
    assert front(rows, [TIME, BITS])["bad"] == ("good",)


def test_a_suspected_loss_of_quality_is_not_beaten_away():
    rows = {
        "quick": {"time": cell(1.0, 1.01, 1.02), "bits": cell(2.015, 1.98, 2.06)},
        "slow": {"time": cell(2.0, 2.01, 2.05), "bits": cell(2.00, 2.01, 2.01)},
    }
    assert front(rows, [TIME, BITS]) == {"quick": (), "slow": ()}


def test_a_difference_within_the_noise_beats_nobody():
    rows = {
        "a": {"time": cell(1.0, 1.3, 0.9), "bits": cell(2.0, 2.0, 2.0)},
        "b": {"time": cell(1.1, 1.2, 1.0), "bits": cell(2.0, 2.0, 2.0)},
    }
    assert front(rows, [TIME, BITS]) == {"a": (), "b": ()}


def test_a_row_without_a_figure_is_left_out():
    rows = {"a": {"time": cell(1.0), "bits": cell(1.0)}, "b": {"time": cell(1.0), "bits": Cell(absent="none")}}
    assert front(rows, [TIME, BITS]) == {"a": ()}


def test_of_many_rows_that_beat_one_the_three_best_are_named():
    rows = {f"r{i}": {"time": cell(i * 1.0, i * 1.01, i * 1.02)} for i in range(1, 9)}
    assert front(rows, [TIME])["r8"] == ("r1", "r2", "r3")


def test_where_high_is_better_high_beats():
    rows = {"low": {"rate": cell(1.0, 1.01, 1.02)}, "high": {"rate": cell(2.0, 2.01, 2.02)}}
    assert front(rows, [Axis("rate", "high", 0.02)]) == {"low": ("high",), "high": ()}
