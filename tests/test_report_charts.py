"""What the page's charts are drawn from: outlines that lose no peak, points that follow from the records, fair fronts."""

from __future__ import annotations

import json
import re
import statistics
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from efficientllm import report
from efficientllm.analysis.examples import VARIANTS, example_study
from efficientllm.analysis.leaderboard import study_table
from efficientllm.records.examples import example_measurement
from efficientllm.records.series import Series
from efficientllm.records.window import Caution, Window
from efficientllm.report.html import page
from efficientllm.report.predicted import predictions
from efficientllm.report.roofline import roof_charts
from efficientllm.report.thinning import extremes
from efficientllm.report.timeline import MOST_POINTS, MOST_TRIALS, timeline, timelines

STUDY = example_study(kind="cuda", energy=True)
HERE = Path(report.__file__).parent


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=400), st.integers(4, 60))
def test_thinning_keeps_the_ends_and_the_extremes_and_is_short(values, number):
    kept = extremes(values, number)
    assert kept == sorted(set(kept)) and kept[0] == 0 and kept[-1] == len(values) - 1
    assert len(kept) <= max(2, number)
    assert {min(values), max(values)} <= {values[i] for i in kept}


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=400), st.integers(8, 60))
def test_thinning_leaves_no_value_outside_the_outline_of_its_run(values, number):
    kept, runs = extremes(values, number), max(1, number // 2 - 1)
    for run in range(runs if len(values) > number else 0):
        places = range(run * len(values) // runs, (run + 1) * len(values) // runs)
        drawn = [values[i] for i in kept if i in places]
        assert all(min(drawn) <= values[i] <= max(drawn) for i in places)


def _spiky() -> Window:
    at_s = tuple(i / 100 for i in range(5000))
    values = tuple(50.0 if i == 3217 else (0.5 if i == 1711 else 1.0 + (i % 7) / 100) for i in range(5000))
    steps = Series(name="step_s", unit="s", at_s=at_s, values=values, source="time.perf_counter")
    return Window(name="train", begin_s=0.0, end_s=50.0, series=(steps,))


def test_a_single_slow_step_of_5000_is_still_on_the_page_and_the_record_has_all():
    made = timeline(replace(example_measurement(), windows=(_spiky(),)))
    panel = made.panels[0]
    values = [value * line.scale for line in panel.lines for value in line.values]
    assert panel.whole == 5000 and len(values) <= MOST_POINTS
    assert max(values) == pytest.approx(50.0, rel=1e-3)
    assert min(values) == pytest.approx(0.5, abs=0.006)
    assert 32170 in panel.lines[0].at


def test_what_two_windows_hold_is_drawn_once_and_time_ascends():
    at_s, values = (1.0, 2.0, 3.0, 4.0), (5.0, 6.0, 7.0, 8.0)
    held = Series(name="process_memory_bytes", unit="bytes", at_s=at_s, values=values, source="rss")
    part = replace(held, at_s=(*at_s[1:], 4.4), values=(*values[1:], 9.0))
    later = replace(held, at_s=(9.0,), values=(2.0,))
    windows = (
        Window(name="curve", begin_s=0.5, end_s=4.5, series=(held,)),
        Window(name="train", begin_s=1.5, end_s=4.5, series=(part,)),
        Window(name="quality", begin_s=8.0, end_s=9.5, series=(later,)),
    )
    made = timeline(replace(example_measurement(), windows=windows))
    line = made.panels[1].lines[0]
    assert line.at == [500, 1500, 2500, 3500, 3900, 8500] and line.starts == [0, 5]
    assert [(band.text, band.begin, band.end) for band in made.bands] == [
        ("warm-up", 0, 1000), ("train", 1000, 4000), ("quality", 7500, 9000),
    ]  # fmt: skip


def test_power_is_read_else_counted_else_absent_with_its_reason():
    joules = Series(name="energy_j", unit="j", at_s=(1.0, 2.0, 4.0), values=(10.0, 110.0, 510.0), source="rapl")
    watts = Series(name="power_w", unit="w", at_s=(1.0, 2.0), values=(90.0, 95.0), source="nvml")
    window = Window(name="train", begin_s=0.0, end_s=5.0, series=(joules,))
    record = replace(example_measurement(), absent={"power_w": "no meter of power"})
    counted, read, none = (
        timeline(replace(record, windows=(replace(window, series=series),))).panels[2]
        for series in ((joules,), (joules, watts), ())
    )
    assert [round(v * counted.lines[0].scale) for v in counted.lines[0].values] == [100, 200]
    assert counted.source.startswith("rapl") and read.source == "nvml"
    assert none.lines == () and none.absent == "no meter of power"


def test_a_device_held_back_is_marked_at_its_instants_and_a_caution_at_its_window():
    bits = Series(name="throttle_reasons", unit="bits", at_s=(1.0, 2.0, 3.0), values=(0.0, 4.0, 1.0))
    window = Window(name="train", begin_s=0.5, end_s=5.0, series=(bits,))
    said = (
        Caution(code="throttled", text="train: clocks were held down by power cap"),
        Caution(code="odd", text="all"),
    )
    made = timeline(replace(example_measurement(), windows=(window,), cautions=said))
    assert made.marks == ((1500, "throttled: power cap"),)
    assert made.bands[0].cautions == ("train: clocks were held down by power cap",)
    assert made.cautions == ("all",)


def test_the_first_repeats_of_all_techniques_have_timelines_before_any_second():
    found = timelines(example_study(repeats=12))
    assert len(found) == MOST_TRIALS < 12 * 8
    assert {(t.stage, t.technique, t.repeat) for t in found} >= {
        (stage, v.name, 0) for stage in ("pretrain", "inference") for v in VARIANTS
    }
    assert max(trial.repeat for trial in found) == 7


def _detail(study):
    return study_table("q", study, detail=True).sections


def test_a_point_under_the_roof_follows_from_the_records():
    charts = roof_charts(_detail(STUDY), STUDY)
    points = [(chart, point) for chart in charts for point in chart.points]
    assert {point.bound for _, point in points} == {"compute", "memory"} and len(points) >= 8
    for chart, point in points:
        records = [m for m in STUDY if m.trial.technique() == point.name]
        windows = [w for m in records for w in m.windows if chart.heading.endswith(_place(m, w)) and w.find("step_s")]
        rates = [w.work.model_flops / statistics.median(w.find("step_s").values) for w in windows]
        assert len(rates) == 3
        assert point.intensity == windows[0].work.model_flops / windows[0].work.moved_bytes
        assert (point.low, point.rate, point.high) == tuple(sorted(rates))
        limit = min(chart.flop_per_s[point.dtype], point.intensity * chart.bytes_per_s)
        assert point.attained == pytest.approx(point.rate / limit)
        assert (point.bound == "memory") == (point.intensity * chart.bytes_per_s < chart.flop_per_s[point.dtype])


def _place(record, window) -> str:
    from efficientllm.report.marks import heading

    return heading(record.trial.stage, window.label())


def test_training_copies_and_decoding_reads():
    by_memory = {chart.memory: chart.bytes_per_s for chart in roof_charts(_detail(STUDY), STUDY)}
    ceilings = STUDY[0].ceilings
    assert by_memory == {"copy": ceilings.copy_bytes_per_s, "read": ceilings.read_bytes_per_s}


def test_a_technique_without_a_point_says_why():
    plain = [replace(m, ceilings=None) for m in STUDY]
    for chart in roof_charts(_detail(plain), plain):
        assert chart.points == () and set(chart.absent) and all("calibrate" in why for why in chart.absent.values())
    decode = next(c for c in roof_charts(_detail(STUDY), STUDY) if "batch 1" in c.heading and "decode" in c.heading)
    assert "cache_resident" in decode.absent["mla"] and "mla" not in {point.name for point in decode.points}


def _predicted(capacity=16e9, outcome="ok", came=8e9, **figures):
    record = example_measurement()
    devices = tuple(replace(d, kind="cuda", capacity_bytes=int(capacity)) for d in record.environment.devices)
    window = Window(name="train", begin_s=0, end_s=9, figures={"allocated_peak_bytes": came})
    return replace(
        record, environment=replace(record.environment, devices=devices), outcome=outcome, figures=figures,
        windows=(window,) if outcome == "ok" else (), model=None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("record", "state", "said"),
    [
        (_predicted(predicted_peak_bytes=8.2e9), "within", "off by 2.5 %"),
        (_predicted(predicted_peak_bytes=8e9), "within", "as predicted"),
        (_predicted(predicted_peak_bytes=9e9), "outside", "off by 12 %: more than the stated 5 %"),
        (_predicted(predicted_peak_bytes=5e9, predicted_lower_bound=1.0), "held", "a lower bound, and it holds"),
        (_predicted(predicted_peak_bytes=9e9, predicted_lower_bound=1.0), "outside", "more than came"),
        (_predicted(outcome="oom", predicted_peak_bytes=20e9), "held", "as predicted"),
        (_predicted(outcome="oom", predicted_peak_bytes=9e9), "outside", "it would have fitted"),
        (_predicted(outcome="crashed", predicted_peak_bytes=9e9), "none", "ended crashed"),
    ],
    ids=["near", "exact", "far", "bound", "broken bound", "no room", "room", "crashed"],
)
def test_what_was_predicted_stands_beside_what_came(record, state, said):
    (found,) = predictions([record])
    assert (found.what, found.state) == ("peak memory", state) and said in found.said
    assert found.predicted.startswith("≥") == ("bound" in found.said or "more than came" in found.said)
    assert ("out of memory of 14.9 GiB" in found.measured) == (record.outcome == "oom")


def test_what_was_not_tried_says_so_and_a_processor_says_why_nothing_can_be_compared():
    short = _predicted(outcome="oom", predicted_peak_bytes=20e9)
    (untried,) = predictions([replace(short, cautions=(Caution(code="predicted", text="not tried"),))])
    assert (untried.measured, untried.state) == ("not tried of 14.9 GiB", "held")
    plain = replace(
        example_measurement(),
        figures={"predicted_peak_bytes": 9e9, "predicted_optimizer_bytes": 5.0, "optimizer_bytes": 5.0},
    )
    peak, optimizer = predictions([plain])
    assert "allocator" in peak.said and peak.state == "none"
    assert (optimizer.what, optimizer.ratio, optimizer.said) == ("optimizer's state", "1.00×", "as predicted")


def test_time_and_energy_are_held_against_their_predictions_where_there_are_any():
    m = next(m for m in STUDY if m.trial.stage == "pretrain")
    step_s = statistics.median(m.find("train").find("step_s").values)
    told = {"predicted_step_s": 1.02 * step_s, "predicted_energy_j": 2 * m.find("train").figures["energy_j"]}
    found = {one.what: one.state for one in predictions([replace(m, figures={**m.figures, **told})])}
    assert found == {"time of a step": "within", "energy of training": "outside"}


def test_the_page_has_a_figure_for_each_chart_and_its_data():
    text = page(study_table("q", STUDY), STUDY)
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])
    assert {"sections", "curves", "timelines", "roofs"} <= set(data)
    for place in ("scatter", "curves", "timeline", "roofline"):
        assert f'id="{place}"' in text and f'id="{place.removesuffix("s")}' in text
    assert all(len(trial["panels"]) == 3 for trial in data["timelines"])


def _seen(colour: str, matrix: np.ndarray) -> np.ndarray:
    """Return CIE Lab of a colour as an eye sees it whose cones the matrix (of linear RGB) stands for."""
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ np.clip(matrix @ linear, 0, 1) / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


#: Machado, Oliveira, Fernandes 2009, doi:10.1109/TVCG.2009.113, at full severity.
EYES = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
    "all cones": np.eye(3),
}


@pytest.mark.parametrize("side", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("eye", EYES)
def test_no_two_colours_of_a_chart_look_alike_to_any_eye(eye, side):
    pairs = re.findall(r"--c\d: light-dark\((#\w{6}), (#\w{6})\)", (HERE / "page.css").read_text())
    colours = [_seen(pair[side], np.array(EYES[eye])) for pair in pairs]
    assert len(colours) == 8
    assert min(float(np.linalg.norm(a - b)) for a, b in combinations(colours, 2)) > 15


def test_curves_and_timelines_of_one_study_tell_the_same_time():
    trial = next(t for t in timelines(STUDY) if t.stage == "pretrain")
    assert all(a.begin <= b.begin for a, b in pairwise(trial.bands))
    steps = trial.panels[0].lines[0]
    train = next(band for band in trial.bands if band.text == "train")
    assert train.begin <= steps.at[0] and steps.at[-1] <= train.end
