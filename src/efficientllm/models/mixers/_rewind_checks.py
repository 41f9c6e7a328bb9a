"""What every mixer's state is held to: it goes back where it was marked, and stays where it lies."""

from __future__ import annotations

import torch

from efficientllm.models.mixers._contract import MixerEntry, State
from efficientllm.models.mixers._probe import empty_state, float_tensors, in_chunks, make_mixer, same, tokens


def rewind(entry: MixerEntry) -> None:
    """After a rewind to a mark, again and again, or to 0, the state is as it was at that length."""
    mixer = make_mixer(entry)
    x = tokens(20)
    state = empty_state(mixer, 32, fixed=False)
    first = in_chunks(mixer, x[:, :13], [12, 1], state)
    state.mark()
    first = torch.cat((first, in_chunks(mixer, x[:, 13:], [1, 1, 5], state, start=13)), 1)
    for chunks in ([1, 6], [7], [3, 1, 3]):
        state.rewind(13)
        assert state.length == 13, f"rewind(13) leaves a length of {state.length}"
        again = in_chunks(mixer, x[:, 13:], chunks, state, start=13)
        same(again, first[:, 13:], "tokens after a rewind to a mark differ from the first time")
    state.rewind(0)
    assert state.length == 0, f"rewind(0) leaves a length of {state.length}"
    changed = x.flip(1)
    fresh = in_chunks(mixer, changed, [20], empty_state(mixer, 32, fixed=False))
    same(
        in_chunks(mixer, changed, [13, 7], state), fresh, "tokens after a rewind to 0 differ from those of a new state"
    )
    _refuses_or_goes_back(entry, state)


def _refuses_or_goes_back(entry: MixerEntry, state: State) -> None:
    """Where nothing was marked since the state was emptied, a rewind is right or refused, never wrong in silence."""
    mixer, x = make_mixer(entry), tokens(20)
    changed = x.flip(1)
    refusal = ""
    try:
        state.rewind(13)
    except AssertionError as error:
        refusal = str(error) or "nothing"
    if refusal:
        assert "mark" in refusal, f"a refused rewind says {refusal!r} and does not speak of mark()"
        return
    expected = in_chunks(mixer, changed, [20], empty_state(mixer, 32, fixed=False))[:, 13:]
    got = in_chunks(mixer, changed[:, 13:], [7], state, start=13)
    same(got, expected, "tokens after a rewind to a length that was not marked differ from the first time")


def fixed_addresses(entry: MixerEntry) -> None:
    """Chunks, steps, marks and rewinds write the state's tensors in place: a captured step finds them again."""
    mixer = make_mixer(entry)
    x = tokens(20)
    state = empty_state(mixer, 32, fixed=True)
    held = {tensor.data_ptr() for tensor in float_tensors(state)}
    said = [tensor.data_ptr() for tensor in state.tensors()]
    assert held <= set(said), "the state holds a float tensor that its tensors() does not return"

    def expect(after: str) -> None:
        now = [tensor.data_ptr() for tensor in state.tensors()]
        assert now == said, f"a tensor of the state lies elsewhere after {after}"

    in_chunks(mixer, x[:, :13], [13], state)
    expect("a chunk")
    in_chunks(mixer, x[:, 13:14], [1], state, start=13)
    expect("a step")
    state.mark()
    in_chunks(mixer, x[:, 14:], [5, 1], state, start=14)
    expect("a mark, a chunk and a step")
    state.rewind(14)
    expect("a rewind to the mark")
    state.rewind(0)
    expect("a rewind to 0")
