"""What a recurrent mixer keeps in training, in terms of what its parts do."""

from __future__ import annotations

from efficientllm.models.forward_pass import ForwardPass
from efficientllm.models.mixers._contract import Mixer


class RecurrentCosts(Mixer):
    """What `RecurrentMixer` says of memory; each mixer gives the parts."""

    def saved_bytes(self, ahead: ForwardPass) -> float:
        """Return what the parts around the recurrence keep, and on a processor also what its chunks do.

        On CUDA chunks are computed again, or by a kernel, which keeps what goes in and little more.
        """
        outside = self.outside_bytes(ahead)
        return outside + (self.taken_bytes(ahead) if ahead.accelerator else self.chunk_bytes(ahead))

    def working_bytes(self, ahead: ForwardPass) -> float:
        """Return the gradients inside of the chunks, and on CUDA what the chunks keep for the time of it."""
        return self.chunk_gradient_bytes(ahead) + (self.chunk_bytes(ahead) if ahead.accelerator else 0.0)

    def outside_bytes(self, ahead: ForwardPass) -> float:
        """Return what is kept from the projections to the recurrence, and from it to the output.

        Raises:
            NotImplementedError: as `saved_bytes`.
        """
        raise NotImplementedError

    def taken_bytes(self, ahead: ForwardPass) -> float:
        """Return what of the recurrence's inputs is not kept for other reasons."""
        raise NotImplementedError

    def chunk_bytes(self, ahead: ForwardPass) -> float:
        """Return what `chunks` keeps (see `_chunked_costs.py`)."""
        raise NotImplementedError

    def chunk_gradient_bytes(self, ahead: ForwardPass) -> float:
        """Return the most that the gradients inside of `chunks` take at once."""
        raise NotImplementedError
