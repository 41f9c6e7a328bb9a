"""What full fine-tuning and freezing share: some of the decoder's own parameters are trained, and saved as they are."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from efficientllm.adapters import _saved
from efficientllm.adapters._contract import Attached
from efficientllm.errors import UserError
from efficientllm.models.checkpoint import checkpoint_parts

WEIGHTS = "trained.safetensors"


class WholeWeights(Attached):
    """A decoder of which some parameters are trained; there is nothing to merge."""

    def save(self, folder: Path, base: str = "") -> None:
        """Write the trained parameters under the names of the model's checkpoints."""
        folder.mkdir(parents=True, exist_ok=True)
        pieces = {name: piece.detach().cpu().clone() for name, piece in self._pieces().items()}
        save_file(pieces, folder / WEIGHTS, metadata={"format": "pt", "base": base})

    def load(self, folder: Path) -> None:
        """Fill the trained parameters."""
        try:
            found = load_file(folder / WEIGHTS)
        except FileNotFoundError as error:
            raise UserError(f"{folder} holds no {WEIGHTS}. It was not saved by full or freeze.") from error
        wanted = self._pieces()
        _saved.check(folder, {k: v.shape for k, v in found.items()}, {k: v.shape for k, v in wanted.items()})
        with torch.no_grad():
            for name, piece in wanted.items():
                piece.copy_(found[name])

    def merge(self) -> None:
        """Leave the decoder as it is."""
        self.decoder.requires_grad_(False)

    def _pieces(self) -> dict[str, Tensor]:
        """Return name in a checkpoint -> the part of a trained parameter that is stored under it."""
        parts = checkpoint_parts(self.decoder)
        return {
            name: piece
            for own, parameter in self.trained().items()
            for (name, _), piece in zip(parts[own], parameter.split([rows for _, rows in parts[own]]), strict=True)
        }
