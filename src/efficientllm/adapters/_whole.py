"""What full fine-tuning and freezing share: some of the decoder's own parameters are trained, and saved as they are."""

from __future__ import annotations

from pathlib import Path

from efficientllm.adapters._contract import Attached


class WholeWeights(Attached):
    """A decoder of which some parameters are trained; there is nothing to merge."""

    def save(self, folder: Path, base: str = "") -> None:
        """Write the trained parameters under the names of the model's checkpoints."""
        raise NotImplementedError

    def load(self, folder: Path) -> None:
        """Fill the trained parameters."""
        raise NotImplementedError

    def merge(self) -> None:
        """Leave the decoder as it is."""
        self.decoder.requires_grad_(False)
