"""An external meter's file: read, put on our clock, and made into a bound; every bad line is named."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime

import pytest

from efficientllm.errors import UserError
from efficientllm.meters.external import NAME, WallClock, external_figures, read_meter, read_until, with_external
from efficientllm.meters.integrate import NotCovered
from efficientllm.meters.windows import window_figures
from efficientllm.physics.judge import judge
from efficientllm.records.environment import DeviceInfo
from efficientllm.records.examples import example_measurement
from efficientllm.records.series import Series

from efficientllm.meters.samples import Samples  # isort: skip

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC).timestamp()


def written(folder, *lines):
    file = folder / "meter.csv"
    file.write_text("\n".join(lines) + "\n")
    return file


def test_both_forms_of_time_and_a_header_are_read(tmp_path):
    file = written(tmp_path, "# scope: device", "time,watts", "2026-11-25T12:00:00Z,400", f"{NOON + 1},410.5")
    meter = read_meter(file)
    assert (meter.scope, meter.at_unix_s, meter.watts) == ("device", (NOON, NOON + 1), (400.0, 410.5))


def test_a_zone_counts_and_a_last_line_without_its_end_does_not(tmp_path):
    file = tmp_path / "meter.csv"
    file.write_text("2026-11-25T13:00:00+01:00, 400\n2026-11-25T13:00:01+01:00, 41")
    assert read_meter(file).at_unix_s == (NOON,)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["time,watts"], "holds no row"),
        (["time,watts", "yesterday,400"], r"meter.csv:2: 'yesterday,400' is no row"),
        ([f"{NOON},many"], "meter.csv:1"),
        (["2026-11-25T12:00:00,400"], "needs its zone"),
        (["# scope: room", f"{NOON},400"], "scope 'room' is none of machine, device"),
        ([f"{NOON + 5},400", f"{NOON},400"], "time runs backwards after row 1"),
    ],
)
def test_bad_files_are_refused_with_the_line(tmp_path, lines, says):
    with pytest.raises(UserError, match=says):
        read_meter(written(tmp_path, *lines))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere.csv"):
        read_meter(tmp_path / "nowhere.csv")


def test_rows_come_to_lie_on_our_clock(tmp_path):
    meter = read_meter(written(tmp_path, f"{NOON + 2},400", f"{NOON + 4},500"))
    series = meter.series(WallClock(NOON, 1000.0), WallClock(NOON + 10, 1010.0))
    assert series.at_s == pytest.approx((1002.0, 1004.0))
    # a wall clock that was put on by one second during ten: half of it has come by the middle
    series = meter.series(WallClock(NOON, 1000.0), WallClock(NOON + 11, 1010.0))
    assert series.at_s == pytest.approx((1001.8, 1003.6))


def test_a_logger_that_is_a_little_late_is_waited_for(tmp_path):
    file = written(tmp_path, f"{NOON},400")

    def log():
        with file.open("a") as stream:
            stream.write(f"{NOON + 10},400\n")

    threading.Timer(0.5, log).start()
    assert read_until(file, NOON + 9).at_unix_s[-1] == NOON + 10


def meter_at(power_w, scope="machine"):
    at_s = tuple(float(i) for i in range(21))
    return Series(name=NAME, unit="w", at_s=at_s, values=(power_w,) * 21, source=f"file meter.csv (scope: {scope})")


def test_a_machines_rise_over_ours_bounds_what_ours_missed():
    figures = external_figures(meter_at(900.0), 5, 15, own_w=600.0, own_idle_w=100.0, external_idle_w=350.0)
    assert figures == pytest.approx({"external_energy_j": 9000.0, "energy_systematic_bound_ratio": 0.1})


def test_a_meter_of_the_device_itself_is_compared_as_it_stands():
    figures = external_figures(meter_at(630.0, "device"), 5, 15, own_w=600.0, own_idle_w=0.0, external_idle_w=None)
    assert figures["energy_systematic_bound_ratio"] == pytest.approx(0.05)


def test_without_idle_or_rise_or_readings_there_is_no_bound_and_the_reason_is_said():
    with pytest.raises(NotCovered, match="did not see the device idle"):
        external_figures(meter_at(900.0), 5, 15, own_w=600.0, own_idle_w=100.0, external_idle_w=None)
    with pytest.raises(NotCovered, match="did not rise"):
        external_figures(meter_at(900.0), 5, 15, own_w=100.5, own_idle_w=100.0, external_idle_w=350.0)
    with pytest.raises(NotCovered, match="fewer than two readings"):
        external_figures(meter_at(900.0), 5.1, 5.9, own_w=600.0, own_idle_w=100.0, external_idle_w=350.0)


def samples_with(meter):
    power = Series(name="power_w", unit="w", at_s=tuple(i / 10 for i in range(201)), values=(600.0,) * 201)
    series = {"power_w": power} | ({NAME: meter} if meter else {})
    return Samples(device=DeviceInfo(kind="fake", name="f", uuid="f-0"), series=series, absent={}, end_s=20.0)


def test_a_window_carries_the_bound_or_the_reason():
    figures = window_figures(samples_with(meter_at(900.0)), 5, 15, idle_power_w=(100.0,), external_idle_w=350.0)[1]
    assert figures["energy_systematic_bound_ratio"] == pytest.approx(0.1)
    assert figures["external_power_mean_w"] == pytest.approx(900.0)
    figures = window_figures(samples_with(meter_at(630.0, "device")), 5, 15)[1]  # which needs no idle power
    assert figures["energy_systematic_bound_ratio"] == pytest.approx(0.05)
    absent = window_figures(samples_with(meter_at(900.0)), 5, 15)[2]
    assert "idle power was not measured" in absent["energy_systematic_bound_ratio"]
    absent = window_figures(samples_with(None), 5, 15, idle_power_w=(100.0,))[2]
    assert "--external" in absent["energy_systematic_bound_ratio"]


def test_a_file_that_breaks_while_a_trial_runs_is_absent_with_its_reason(tmp_path):
    broken = written(tmp_path, "nonsense")
    samples = with_external(samples_with(None), broken, WallClock.now())
    assert "meter.csv:1" in samples.absent[NAME]


def test_the_readings_of_a_trial_come_from_the_file_of_its_time(tmp_path):
    begin = WallClock.now()
    file = written(tmp_path, f"{begin.unix_s - 1},300", f"{begin.unix_s + 60},300")
    samples = with_external(samples_with(None), file, begin)
    assert samples.series[NAME].at_s[0] == pytest.approx(time.perf_counter() - 1, abs=0.5)


@pytest.mark.parametrize(("bound", "doubtful"), [(-0.06, True), (-0.04, False), (0.5, False)])
def test_a_machine_that_rose_less_than_its_card_is_a_contradiction(bound, doubtful):
    record = example_measurement(step_s=(1.0,) * 6, figures={"energy_systematic_bound_ratio": bound})
    codes = {caution.code for caution in judge(record).cautions}
    assert ("external_meter_below" in codes) is doubtful
