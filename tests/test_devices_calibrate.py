"""Calibration on the processor, in miniature: what is counted, what is left out, and that ceilings are ceilings."""

import time

import pytest
import torch

from efficientllm.devices.calibrate import measure_ceilings, working_sets
from efficientllm.devices.fake import FakeDevice
from efficientllm.devices.inventory import inventory
from efficientllm.devices.links import link_bytes_per_s
from efficientllm.devices.matmul import MatmulWork, Unmeasurable, best_work
from efficientllm.devices.peaks import datasheet
from efficientllm.records.settings import CalibrateSettings

MIB = 1 << 20
SMALL = FakeDevice({"info": {"capacity_bytes": 64 * MIB, "last_level_cache_bytes": MIB}})
QUICK = CalibrateSettings(dtypes=("float32", "bfloat16", "float99"), burst_s=0.004, bursts=3, sustained_s=0.02)


@pytest.fixture(scope="module")
def calibration():
    told = []
    found = measure_ceilings(SMALL, QUICK, lambda *step: told.append(step))
    return found, told


def test_every_ceiling_is_measured_and_none_is_below_what_lasts(calibration):
    ceilings = calibration[0].ceilings
    assert set(ceilings.matmul_peak_flop_per_s) == set(ceilings.matmul_sustained_flop_per_s) == {"float32", "bfloat16"}
    for dtype, peak in ceilings.matmul_peak_flop_per_s.items():
        assert peak >= ceilings.matmul_sustained_flop_per_s[dtype] > 1e8
    assert ceilings.read_bytes_per_s > 1e8 and ceilings.copy_bytes_per_s > 1e8
    assert ceilings.launch_s > 0
    assert ceilings.idle_power_w is None


def test_an_unknown_format_is_left_out_with_its_reason(calibration):
    absent = calibration[0].absent
    assert list(absent) == ["matmul_float99_flop_per_s", "link_bytes_per_s"]
    assert "float32, bfloat16" in absent["matmul_float99_flop_per_s"]


def test_the_raw_rates_are_kept(calibration):
    series = {one.name: one for one in calibration[0].series}
    burst = series["matmul_burst_float32_flop_per_s"]
    assert len(burst.values) == QUICK.bursts and burst.unit == "flop/s"
    assert list(burst.at_s) == sorted(burst.at_s)
    assert len(series["matmul_sustained_bfloat16_flop_per_s"].values) >= 2


def test_progress_ends_at_its_total(calibration):
    steps = calibration[1]
    assert steps[0][0] == 0 and steps[-1][0] == steps[-1][1]
    assert [step[0] for step in steps] == sorted(step[0] for step in steps)


def test_bandwidth_is_told_by_working_set_and_the_largest_is_the_ceiling(calibration):
    found, _ = calibration
    assert found.figures["read_at_1048576_bytes_per_s"] > 0
    assert found.ceilings.read_bytes_per_s == found.figures[f"read_at_{8 * MIB}_bytes_per_s"]


def test_working_sets_leave_the_cache_where_memory_allows():
    roomy = FakeDevice({"info": {"capacity_bytes": 1 << 38, "last_level_cache_bytes": 480 * MIB}})
    assert working_sets(roomy)[-1] == 4 * 480 * MIB
    assert working_sets(SMALL) == [MIB, 4 * MIB, 8 * MIB]


def test_a_product_counts_two_operations_an_element_pair():
    assert MatmulWork(product=lambda: None, side=100, product_s=1.0).flop == 2e6


def test_a_product_multiplies_random_data_in_the_format_asked_for():
    product = best_work(SMALL, "bfloat16", 1e-9).product()
    assert product.dtype == torch.bfloat16
    assert product.float().std() == pytest.approx(512**0.5, rel=0.05)


def test_formats_of_other_devices_are_unmeasurable():
    with pytest.raises(Unmeasurable, match="NVIDIA"):
        best_work(SMALL, "tf32", 0.01)
    with pytest.raises(Unmeasurable, match="no number format 'int4'"):
        best_work(SMALL, "int4", 0.01)


# datasheets and inventory ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "bf16_tflops", "gbytes_per_s"),
    [
        ("NVIDIA H200", 989.4, 4800),
        ("NVIDIA H100 80GB HBM3", 989.4, 3350),
        ("NVIDIA H100 PCIe", 756, 2039),
        ("NVIDIA GH200 480GB", 989.4, 4000),
        ("NVIDIA A100-SXM4-40GB", 312, 1555),
        ("NVIDIA A100-SXM4-80GB", 312, 2039),
        ("NVIDIA L40S", 362.05, 864),
        ("NVIDIA L4", 121, 300),
        ("NVIDIA GeForce RTX 4090", 165.2, 1008),
        ("NVIDIA GeForce RTX 3090", 71, 936),
        ("NVIDIA B200", 2250, 8000),
    ],
)
def test_a_datasheet_is_found_by_the_drivers_name(name, bf16_tflops, gbytes_per_s):
    peaks = datasheet(name)
    assert peaks.flop_per_s["bfloat16"] == pytest.approx(bf16_tflops * 1e12)
    assert peaks.memory_bytes_per_s == pytest.approx(gbytes_per_s * 1e9)
    assert peaks.flop_per_s["float32"] <= peaks.flop_per_s["tf32"] <= peaks.flop_per_s["bfloat16"]
    assert peaks.source


@pytest.mark.parametrize("name", ["NVIDIA H200 MIG 1g.18gb", "NVIDIA GeForce RTX 4090 Laptop GPU", "Some CPU", ""])
def test_what_has_no_datasheet_gets_none(name):
    assert datasheet(name) is None


def test_the_inventory_says_how_fine_each_quantity_is_and_why_others_are_missing():
    device = FakeDevice(
        {
            "sensors": {
                "energy_j": {"value": lambda s: 1000 + 200 * s, "update_every_s": 0.02, "cumulative": True},
                "temperature_c": {"points": [[0, 40]]},
                "power_w": {"points": [[0, 1]], "fails_at_s": 0, "fails_with": "the driver is gone"},
            },
            "absent": {"clock_hz": "no clock in this fake"},
        }
    )
    rows = {row.quantity: row for row in inventory(device, watch_s=0.2)}
    assert rows["energy_j"].smallest_step == pytest.approx(4.0, rel=1e-6)
    assert "moves every" in rows["energy_j"].resolution
    assert rows["temperature_c"].value == 40 and "did not move" in rows["temperature_c"].resolution
    assert rows["power_w"].absent == "the driver is gone" and rows["power_w"].resolution == ""
    assert rows["clock_hz"].absent == "no clock in this fake"


def test_a_link_is_the_median_of_its_copies_the_first_left_out():
    waits = iter([0.5, 0.01, 0.01, 0.01, 0.01, 0.3])
    rate = link_bytes_per_s(lambda: time.sleep(next(waits)), SMALL, num_bytes=1000)
    assert rate == pytest.approx(1000 / 0.01, rel=0.3)


def test_without_a_second_device_there_is_no_link_and_the_reason_is_said(calibration):
    assert calibration[0].ceilings.link_bytes_per_s == 0.0
    assert "no second device" in calibration[0].absent["link_bytes_per_s"]
