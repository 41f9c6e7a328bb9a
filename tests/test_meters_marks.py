"""What a workload says of a point that it cannot have."""

import pytest

from efficientllm import registry
from efficientllm.errors import Unsupported
from efficientllm.meters.marks import Marks
from efficientllm.records import events
from efficientllm.records.protocol import Protocol
from efficientllm.records.window import Work


def closed_by(tmp_path, raise_where):
    marks = Marks(tmp_path / "events", registry.load("device", "cpu").open(""), Protocol())
    with marks.attempt("decode", {"batch": 1, "tokens": 512}):
        if raise_where == "before":
            raise Unsupported("512 tokens exceed the 300 positions")
        with marks.window("decode", work=Work()):
            raise Unsupported("512 tokens exceed the 300 positions")
    marks.close()
    said, _ = events.decode_events((tmp_path / "events").read_bytes())
    return [event for event in said if isinstance(event, events.Closed)]


@pytest.mark.parametrize("raise_where", ["before", "inside"])
def test_a_point_that_is_unsupported_ends_as_that_and_the_next_one_runs(tmp_path, raise_where):
    (closed,) = closed_by(tmp_path, raise_where)
    assert closed.outcome == "unsupported"
    assert "512 tokens exceed the 300 positions" in closed.reason


def test_any_other_error_is_not_a_result_of_the_point(tmp_path):
    marks = Marks(tmp_path / "events", registry.load("device", "cpu").open(""), Protocol())
    with pytest.raises(ValueError, match="slip"), marks.attempt("decode", {}):
        raise ValueError("slip")
