"""Copies the cards of a trial's techniques into its record."""

from __future__ import annotations

import msgspec

from efficientllm import catalog, registry
from efficientllm.records.card import Card
from efficientllm.records.choice import Choice
from efficientllm.records.model_settings import ModelSettings
from efficientllm.records.settings import slot_of
from efficientllm.workloads._contract import Recorder


def copy_cards(recorder: Recorder, settings: ModelSettings) -> None:
    """Say the card of every slot's entry that has one."""
    for field in msgspec.structs.fields(type(settings)):
        choice, slot = getattr(settings, field.name), slot_of(field.name)
        # a corpus given by its path is no entry, and no technique
        if isinstance(choice, Choice) and (choice.path or choice.name in catalog.names(slot)):
            card = getattr(registry.load(slot, choice.address()), "card", None)
            if isinstance(card, Card):
                recorder.card(field.name, card)
