"""Every schedule of the folder is held to the contract."""

import functools
from itertools import pairwise

import pytest

from efficientllm import catalog, registry
from efficientllm.errors import UserError
from efficientllm.records.choice import Choice
from efficientllm.records.training_settings import TrainingSettings
from efficientllm.training.choose import load_schedule
from efficientllm.training.schedules._contract import learning_rate

SCHEDULES = catalog.names("schedule")
WAY = [place / 200 for place in range(201)]


@pytest.mark.parametrize("final", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("name", SCHEDULES)
def test_it_begins_at_the_peak_never_rises_and_ends_at_the_final_rate(name, final):
    share = functools.partial(registry.load("schedule", name).share, final_ratio=final)
    shares = [share(place) for place in WAY]
    assert shares[0] == pytest.approx(1.0)
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(shares))
    assert shares[-1] == pytest.approx(1.0 if name == "constant" else final)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_rate_rises_to_the_peak_and_the_last_step_still_moves(name):
    share = load_schedule(TrainingSettings(schedule=Choice(name=name)))
    rates = [learning_rate(share, 2.0, 0.1, step, 50) for step in range(50)]
    assert rates[:5] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0])
    assert max(rates) == pytest.approx(2.0) and rates[-1] > 0


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedules_card_has_a_title(name):
    card = registry.load("schedule", name).card
    assert card.title and (card.source.startswith("arXiv:") or name == "constant")


def test_wsd_stays_at_the_peak_and_then_falls():
    share = load_schedule(TrainingSettings(schedule=Choice(name="wsd", options={"decay_ratio": 0.5})))
    assert [share(place) for place in (0.0, 0.3, 0.5)] == [1.0, 1.0, 1.0]
    assert share(0.51) < 1.0


@pytest.mark.parametrize("value", [0, 1.5, -0.2, "long", True])
def test_wsd_refuses_a_fall_that_is_none(value):
    settings = TrainingSettings(schedule=Choice(name="wsd", options={"decay_ratio": value}))
    with pytest.raises(UserError, match=rf"option decay_ratio of schedule wsd is {value!r}\. Give a number above 0"):
        load_schedule(settings)


def test_an_option_that_a_schedule_does_not_have_is_refused_with_the_nearest():
    settings = TrainingSettings(schedule=Choice(name="wsd", options={"decay_ration": 0.2}))
    with pytest.raises(UserError, match=r"unknown option 'decay_ration' of schedule wsd\. Did you mean 'decay_ratio'"):
        load_schedule(settings)
