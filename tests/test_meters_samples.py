"""A sampler's file is readable after a kill at any instant."""

import msgspec
import pytest

from efficientllm.meters import samples
from efficientllm.records.environment import DeviceInfo

HEADER = samples.Header(
    device=DeviceInfo(kind="fake", name="fake", uuid="f-0", cores=2),
    sensors=(
        samples.SensorHead(name="power_w", unit="w", source="script"),
        samples.SensorHead(name="energy_j", unit="j", source="script", cumulative=True),
        samples.SensorHead(name="process_memory_bytes", unit="bytes", source="script", silence="pids are hidden"),
    ),
    absent={"clock_hz": "no clock here"},
    at_s=100.0,
    interval_s=0.05,
    processors=2,
)
READINGS = [
    (0, 100.0, 78.25),
    (1, 100.001, 1e12 + 0.125),
    (0, 100.05, 600.0),
    (1, 100.051, 1e12 + 30.5),
    (0, 100.1, 5.0),
]


def whole_file():
    lines = [samples.header_line(HEADER), *(samples.reading_line(*reading) for reading in READINGS)]
    return b"".join([*lines, samples.ended_line(0, "the driver vanished"), samples.stopped_line(100.2)])


def test_a_whole_file_gives_back_what_was_written(tmp_path):
    (tmp_path / "s").write_bytes(whole_file())
    read = samples.read_samples(tmp_path / "s", rank=3, index=1)
    power, energy = read.series["power_w"], read.series["energy_j"]
    assert (power.at_s, power.values) == ((100.0, 100.05, 100.1), (78.25, 600.0, 5.0))
    assert energy.values == (1e12 + 0.125, 1e12 + 30.5)
    assert (power.unit, power.source, power.rank, power.device) == ("w", "script", 3, 1)
    assert read.absent == {
        "clock_hz": "no clock here",
        "process_memory_bytes": "pids are hidden",
        "power_w": "the driver vanished",
    }
    assert (read.begin_s, read.end_s, read.elapsed_s) == (100.0, 100.2, pytest.approx(0.2))
    assert read.cumulative == {"energy_j"}
    assert (read.ended, read.device, read.processors) == ("", HEADER.device, 2)


def test_a_file_cut_off_at_any_byte_gives_a_beginning_of_what_was_written(tmp_path):
    whole, file = whole_file(), tmp_path / "s"
    begin = len(samples.header_line(HEADER))
    counts = []
    for length in range(begin, len(whole)):
        file.write_bytes(whole[:length])
        read = samples.read_samples(file)
        seen = [(s.at_s, s.values) for s in read.series.values()]
        pairs = sorted((at_s, value) for ats, values in seen for at_s, value in zip(ats, values, strict=True))
        assert pairs == [(at_s, value) for _, at_s, value in READINGS[: len(pairs)]]
        assert read.ended == "the sampler ended before it was stopped"
        counts.append(len(pairs))
    assert counts == sorted(counts) and set(counts) == set(range(len(READINGS) + 1))


@pytest.mark.parametrize("length", [0, 1, 40])
def test_a_file_without_a_whole_header_is_refused(tmp_path, length):
    (tmp_path / "s").write_bytes(whole_file()[:length])
    with pytest.raises(ValueError, match="no whole header"):
        samples.read_samples(tmp_path / "s")


def test_an_offset_between_the_clocks_is_taken_off_all_times(tmp_path):
    (tmp_path / "s").write_bytes(whole_file())
    read = samples.read_samples(tmp_path / "s", offset_s=90.0)
    assert read.begin_s == pytest.approx(10.0) and read.end_s == pytest.approx(10.2)
    assert read.series["power_w"].at_s == pytest.approx((10.0, 10.05, 10.1))


def test_samples_can_be_told_from_another_origin(tmp_path):
    (tmp_path / "s").write_bytes(whole_file())
    read = samples.read_samples(tmp_path / "s").shifted(100.0)
    assert read.series["energy_j"].at_s == pytest.approx((0.001, 0.051))
    assert (read.begin_s, read.end_s) == (0.0, pytest.approx(0.2))


def test_the_reasons_survive_any_text(tmp_path):
    reason = 'said "no"\nand more\t\u2026'
    (tmp_path / "s").write_bytes(samples.header_line(HEADER) + samples.ended_line(1, reason))
    assert samples.read_samples(tmp_path / "s").absent["energy_j"] == reason
    assert msgspec.json.decode(samples.header_line(HEADER), type=samples.Header) == HEADER
