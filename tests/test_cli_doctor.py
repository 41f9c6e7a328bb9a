"""`doctor` says what can be measured, from where, how finely, and what the meters themselves cost."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from efficientllm.cli.main import build_app
from efficientllm.devices._contract import QUANTITIES
from efficientllm.devices.fake import FakeDevice
from efficientllm.meters.self_cost import metered_beside_bare, own_cost


def said(*words):
    done = CliRunner().invoke(build_app(), ["doctor", *words])
    assert done.exit_code == 0, done.output
    return done.output


def test_every_quantity_has_a_source_or_a_reason():
    rows = json.loads(said("--device", "cpu", "--no-cost", "--json"))["quantities"]
    assert [row["quantity"] for row in rows] == list(QUANTITIES)
    assert all(bool(row["source"] and row["resolution"]) != bool(row["absent"]) for row in rows)


def test_the_cost_on_a_processor_is_the_samplers_share_of_the_cores():
    text = said("--device", "cpu")
    assert "the sampler takes" in text and "% of the processor" in text


def test_the_cost_can_be_left_out_and_then_the_table_says_so():
    assert "not measured (not asked for)" in said("--device", "cpu", "--no-cost")


def test_on_anything_but_a_processor_a_metered_loop_stands_beside_a_bare_one():
    costs = metered_beside_bare(FakeDevice({}), lambda: sum(range(10000)), rounds=2, round_s=0.05)
    assert {"metered_slowdown_ratio", "bare_spread_ratio", "sampler_start_s"} <= set(costs)
    assert "metered_slowdown_ratio" not in own_cost(FakeDevice({}), rounds=1, round_s=0.2)  # torch computes on the CPU
