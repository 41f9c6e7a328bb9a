"""Methods of the peft library on a decoder: it owns parameters, configuration, initialisation, saving and merging."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import nn

from efficientllm.adapters._contract import Attached
from efficientllm.adapters._dora import Dora
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
    starts, start, adapted = [], 0, []
    part: Any
    for part in layer.parts:
        if not isinstance(part, Rows):
            adapted.append(part)
            starts.append(start)
        start += part.out_features
    if not adapted or not all(_has_fast_form(part) for part in adapted):
        return None
    down, up = ([getattr(part, kind)[_ADAPTER] for part in adapted] for kind in ("lora_A", "lora_B"))
    scales = [part.scaling[_ADAPTER] for part in adapted]
    dropouts = [part.lora_dropout[_ADAPTER] for part in adapted]
    drops = not all(isinstance(dropout, nn.Identity) for dropout in dropouts)
    scaled = {bool(part.use_dora.get(_ADAPTER, False)) for part in adapted}
    if scaled == {False}:
        return LowRank(down, up, scales, starts, dropouts if drops else ())
    if drops or len(scaled) > 1:
        return None
    return Dora(down, up, scales, starts, [part.lora_magnitude_vector[_ADAPTER] for part in adapted])


def _has_fast_form(part: Any) -> bool:
    """Whether a layer is LoRA, or DoRA, and no more; other variants have a forward pass of their own."""
    from peft.tuners.lora.layer import Linear as LoraLinear

    if type(part) is not LoraLinear or part.lora_bias.get(_ADAPTER, False):
        return False
    return _ADAPTER not in part.lora_variant or bool(part.use_dora.get(_ADAPTER, False))


def _places(grown: dict[str, nn.Module], layer: AdaptedLinear) -> list[str]:
    """Return the tree's names of a layer's parts, wrapped or not, in the order of their rows."""
    places = []
    for rows in layer._rows:
        name = next(name for name, module in grown.items() if module is rows)
        places.append(name.removesuffix(".base_layer"))
    return places
