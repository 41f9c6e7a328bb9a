"""Which card is torch's `cuda:0`, for every form of CUDA_VISIBLE_DEVICES."""

import pytest

from efficientllm.devices.visibility import Card, Slice, visible_uuids
from efficientllm.errors import UserError

A, B, C, D = "GPU-aa00-1", "GPU-ab00-2", "GPU-bc00-3", "GPU-cd00-4"
FOUR = [Card(A, "H200"), Card(B, "H200"), Card(C, "H200"), Card(D, "H200")]
SLICES = (Slice("MIG-1111", 1, 0), Slice("MIG-1222", 2, 0))
SLICED = [Card(A, "H200"), Card(B, "H200", SLICES, mig=True), Card(C, "H200", (Slice("MIG-3333", 1, 0),), mig=True)]


@pytest.mark.parametrize(
    ("variable", "seen"),
    [
        (None, [A, B, C, D]),
        ("0,1,2,3", [A, B, C, D]),
        ("3,2,1,0", [D, C, B, A]),
        ("2", [C]),
        (" 2 , 0 ", [C, A]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("1,-1,0", [B]),
        ("1,9,0", [B]),
        ("1,,0", [B]),
        ("1,1", []),
        ("0,1,0", []),
        ("1abc,2xyz", [B, C]),
        (C, [C]),
        (f"{D},{A}", [D, A]),
        ("GPU-bc", [C]),
        ("GPU-a", []),
        (f"{B},GPU-a,{C}", [B]),
        (f"{B},{B}", []),
        (f"{B},GPU-ab", []),
        (f"{C},GPU-ffff,{A}", [C]),
        (f"{C},0", [C]),
        (f"0,{C}", [A]),
        ("MIG-1111", []),
    ],
)
def test_cards_are_seen_as_cuda_sees_them(variable, seen):
    assert visible_uuids(FOUR, variable) == seen


@pytest.mark.parametrize(
    ("variable", "seen"),
    [
        ("MIG-1222", ["MIG-1222"]),
        ("MIG-12", ["MIG-1222"]),
        ("MIG-1", []),
        ("MIG-3333,MIG-1111", ["MIG-3333"]),
        (f"MIG-{B}/2/0", ["MIG-1222"]),
        (f"MIG-{B}/1/0", ["MIG-1111"]),
        (f"MIG-{B}/7/0", []),
        (f"MIG-{A}/1/0", []),
        (None, ["MIG-1111"]),
        ("0", [A]),
        ("1", ["MIG-1111"]),
        ("2,1", ["MIG-3333"]),
        (B, ["MIG-1111"]),
        (A, [A]),
    ],
)
def test_of_slices_one_is_seen_and_then_no_card(variable, seen):
    assert visible_uuids(SLICED, variable) == seen


def test_a_card_in_mig_mode_without_slices_is_not_seen():
    assert visible_uuids([Card(A, mig=True), Card(B)], None) == [B]
    assert visible_uuids([Card(A, mig=True), Card(B)], "0,1") == []


def test_numbers_among_different_models_are_refused_unless_the_order_is_fixed():
    mixed = [Card(A, "L4"), Card(B, "H200")]
    for variable in (None, "0", "1,0"):
        with pytest.raises(UserError, match="CUDA_DEVICE_ORDER=PCI_BUS_ID"):
            visible_uuids(mixed, variable)
        with pytest.raises(UserError, match="different models"):
            visible_uuids(mixed, variable, "FASTEST_FIRST")
    assert visible_uuids(mixed, "1,0", "PCI_BUS_ID") == [B, A]
    assert visible_uuids(mixed, B) == [B]
    assert visible_uuids(mixed, "") == []


def test_without_cards_nothing_is_seen():
    assert visible_uuids([], None) == visible_uuids([], "0") == visible_uuids([], A) == []
