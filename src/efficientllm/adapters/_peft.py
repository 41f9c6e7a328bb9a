"""Methods of the peft library on a decoder: it owns parameters, configuration, initialisation, saving and merging."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import nn

from efficientllm.adapters._contract import Attached
from efficientllm.adapters._layer import AdaptedLinear, Rows
from efficientllm.adapters._low_rank import LowRank
from efficientllm.adapters._tree import grow
from efficientllm.errors import UserError
from efficientllm.models.decoder import Decoder

_ADAPTER = "default"


def attach_peft(decoder: Decoder, config: Any, rate_factor: Callable[[str], float] = lambda name: 1.0) -> PeftAttached:
    """Give a decoder's dense layers the adapters of a `peft` configuration and freeze all else.

    Adapters are float32, whatever the base is.

    Raises:
        UserError: the configuration fits no layer of this model.
    """
    return PeftAttached(decoder, config, rate_factor)


class PeftAttached(Attached):
    """A decoder with adapters; see `Attached`."""

    def __init__(self, decoder: Decoder, config: Any, rate_factor: Callable[[str], float]) -> None:
        import peft

        super().__init__(decoder)
        self._rate_factor = rate_factor
        decoder.requires_grad_(False)
        tree, self.layers = grow(decoder)
        with self._materialised():
            try:
                self._model = peft.get_peft_model(tree, config, adapter_name=_ADAPTER)
            except ValueError as error:  # what the library says of targets and ranks
                raise UserError(f"{type(config).__name__}: {' '.join(str(error).split())}") from error
        grown = dict(self._model.base_model.model.named_modules())
        for layer in self.layers:
            layer.parts = nn.ModuleList(grown[name] for name in _places(grown, layer))
            layer.low_rank = low_rank_of(layer)

    def rate_factor(self, name: str) -> float:
        """Return the method's own factor."""
        return self._rate_factor(name)

    def save(self, folder: Path, base: str = "") -> None:
        """Write `adapter_config.json` and `adapter_model.safetensors`, as peft does for any model."""
        self._model.peft_config[_ADAPTER].base_model_name_or_path = base or None
        self._model.save_pretrained(str(folder))

    def load(self, folder: Path) -> None:
        """Fill the adapters."""
        raise NotImplementedError

    def merge(self) -> None:
        """Add the adapters to the base and put the plain layers back."""
        with self._materialised():
            self._model.merge_and_unload()
        raise NotImplementedError

    @contextlib.contextmanager
    def _materialised(self) -> Iterator[None]:
        """Let the tree's leaves be ordinary layers; what was made of them goes into the decoder's matrices."""
        for layer in self.layers:
            layer.materialise()
        try:
            yield
        finally:
            for layer in self.layers:
                layer.lend()


def low_rank_of(layer: AdaptedLinear) -> LowRank | None:
    """Return the fast form of a layer's adapters, None where peft's own forward pass must do."""
    from peft.tuners.lora.layer import Linear as LoraLinear

    down: list[nn.Linear] = []
    up: list[nn.Linear] = []
    scales: list[float] = []
    starts: list[int] = []
    start = 0
    part: Any
    for part in layer.parts:
        if not isinstance(part, Rows):
            if type(part) is not LoraLinear or not _is_plain(part):
                return None
            down.append(part.lora_A[_ADAPTER])
            up.append(part.lora_B[_ADAPTER])
            scales.append(part.scaling[_ADAPTER])
            starts.append(start)
        start += part.out_features
    return LowRank(down, up, scales, starts) if down else None


def _is_plain(part: Any) -> bool:
    """Whether a layer of LoRA adds `scaling * B(A(x))` and no more."""
    no_dropout = isinstance(part.lora_dropout[_ADAPTER], nn.Identity)
    return no_dropout and not part.use_dora.get(_ADAPTER, False) and not part.lora_bias.get(_ADAPTER, False)


def _places(grown: dict[str, nn.Module], layer: AdaptedLinear) -> list[str]:
    """Return the tree's names of a layer's parts, wrapped or not, in the order of their rows."""
    places = []
    for rows in layer._rows:
        name = next(name for name, module in grown.items() if module is rows)
        places.append(name.removesuffix(".base_layer"))
    return places
