"""20,000 mutated bundles: never a traceback, and what recomputation can detect is refused every single time."""

from __future__ import annotations

import random

import pytest
from tests.forgeries import DETECTED, JUNK, UNDETECTABLE, digest_of
from tests.submissions import bundled, study, validated

from efficientllm.errors import ResultsError
from efficientllm.store.container import pack, unpack_bytes

#: How many of each part; together 20,000.
DETECTABLE, WITHDRAWN, LEAVES, BYTES = 11_250, 600, 4_150, 4_000

pytestmark = [pytest.mark.prove, pytest.mark.timeout(900)]


def forged(kinds, total):
    """Yield so many forgeries of some kinds in turn, each with a seed of its own: its kind and what came of it."""
    names, files = list(kinds), study()
    for number in range(total):
        name = names[number % len(names)]
        seed = digest_of(name) + number
        yield name, seed, validated(kinds[name](random.Random(seed), files))


def test_each_detectable_kind_is_refused_every_time():
    missed = [(name, seed) for name, seed, validation in forged(DETECTED, DETECTABLE) if validation.valid]
    assert not missed, missed[:5]


def test_the_kinds_that_are_listed_as_undetectable_pass_and_so_are_no_promise():
    caught = [(name, validation.refused[:2]) for name, _, validation in forged(UNDETECTABLE, WITHDRAWN)
              if not validation.valid]  # fmt: skip
    assert not caught, caught[:3]


def test_any_leaf_of_any_record_or_recipe_may_hold_anything():
    seen = {validation.valid for _, _, validation in forged(JUNK, LEAVES)}
    assert seen == {True, False}


def test_random_bytes_of_a_bundle_are_one_line_or_the_bundle_itself():
    good, files, whole = pack(bundled(study())), study(), 0
    for seed in range(BYTES):
        bad = damaged(random.Random(seed), good)
        found, why = opened(bad)
        if found is None:
            assert "\n" not in why
            continue
        if dict(found).items() >= files.items():
            whole += 1  # a byte that says nothing, as of the container's own padding
            continue
        assert not validated(found).valid, f"seed {seed}"
    assert whole < BYTES / 100


def opened(data):
    """Return what a bundle holds, or None and why it cannot be told."""
    try:
        return list(unpack_bytes(data)), ""
    except ResultsError as error:
        return None, str(error)


def damaged(rng, good):
    """Cut, flip, insert, repeat or overwrite bytes."""
    place, count = rng.randrange(len(good)), rng.choice([1, 1, 2, 16, 512])
    some = rng.randbytes(count)
    kind = rng.randrange(5)
    if kind == 0:
        return good[:place]
    if kind == 1:
        flipped = bytearray(good)
        for _ in range(count):
            flipped[rng.randrange(len(good))] ^= 1 << rng.randrange(8)
        return bytes(flipped)
    if kind == 2:
        return good[:place] + some + good[place:]
    if kind == 3:
        return good[:place] + good[place : place + count] + good[place:]
    return good[:place] + some + good[place + count :]
