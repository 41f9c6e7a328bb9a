"""Methods of the peft library on a decoder: it owns parameters, configuration, initialisation, saving and merging.

Importing this module imports the library, which takes seconds and tens of megabytes: a method's own file does so, and
listing methods reads no such file.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import peft
import torch
from torch import Tensor, nn

from efficientllm.adapters import _saved
from efficientllm.adapters._contract import Attached
from efficientllm.adapters._delta import Deltas
from efficientllm.adapters._dora import Dora
from efficientllm.adapters._layer import AdaptedLinear, Rows
from efficientllm.adapters._low_rank import LowRank
from efficientllm.adapters._mutated import joined, moved, mutates, parted, widened
from efficientllm.adapters._targets import settle_targets
from efficientllm.adapters._tree import grow
from efficientllm.errors import UserError
from efficientllm.models.decoder import Decoder
from efficientllm.precision._contract import PackedLinear

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
        super().__init__(decoder)
        self._rate_factor = rate_factor
        settle_targets(decoder, config)
        starts = mutates(config)
        if starts and decoder.device.type == "meta":
            config.init_lora_weights = True  # without numbers a matrix has no singular vectors
        decoder.requires_grad_(False)
        tree, self.layers = grow(decoder)
        try:
            with self._materialised():
                self._model = peft.get_peft_model(tree, config, adapter_name=_ADAPTER)
        except ValueError as error:  # what else the library finds
            raise UserError(f"{type(config).__name__}: {' '.join(str(error).split())}") from error
        grown = dict(self._model.base_model.model.named_modules())
        for layer in self.layers:
            layer.parts = nn.ModuleList(grown[name] for name in _places(grown, layer))
            layer.fast = fast_form_of(layer)
        decoder.train(decoder.training)  # new layers drop in training, whatever the decoder was in
        self._initial = {key: value.detach().clone() for key, value in self._weights().items()} if starts else {}

    def rate_factor(self, name: str) -> float:
        """Return the method's own factor."""
        return self._rate_factor(name)

    def held_bytes(self) -> float:
        """Return those of the start that was taken out of the base, and of the room beside its matrices."""
        initial = sum(value.nbytes for value in self._initial.values())
        return initial + sum(layer.room_bytes() for layer in self.layers)

    def save(self, folder: Path, base: str = "") -> None:
        """Write `adapter_config.json` and `adapter_model.safetensors`, which peft lays on the model as it was."""
        weights = self._weights()
        _saved.write(folder, self._config(), joined(weights, self._initial) if self._initial else weights, base)

    def load(self, folder: Path) -> None:
        """Fill the adapters."""
        weights = self._weights()
        like = joined(weights, self._initial) if self._initial else weights
        weights = _saved.read(folder, self._config(), like)
        if self._initial:
            weights, initial = parted(weights)
            self._start_from(initial)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Specified to not load vera_A")  # they are drawn anew, as is wanted
            peft.set_peft_model_state_dict(self._model, weights, adapter_name=_ADAPTER)

    def merge(self) -> None:
        """Add the adapters to the base and put the plain layers back."""
        for layer in self.layers:
            layer.unpack()
        with self._materialised():
            self._model.merge_and_unload()
        for layer in self.layers:
            layer.leave()
        self.layers = []
        self.decoder.requires_grad_(False)

    def _weights(self) -> dict[str, Tensor]:
        """Return what is trained, by the names of a saved adapter."""
        found: dict[str, Tensor] = peft.get_peft_model_state_dict(
            self._model, adapter_name=_ADAPTER, save_embedding_layers=False
        )
        return found

    def _config(self) -> dict[str, Any]:
        """Return the configuration of a saved adapter."""
        found = self._model.peft_config[_ADAPTER].to_dict()
        plain = {key: sorted(value) if isinstance(value, set) else value for key, value in found.items()}
        return widened(plain) if self._initial else plain

    @torch.no_grad()
    def _start_from(self, initial: dict[str, Tensor]) -> None:
        """Take another start out of the base than the one that was drawn here, if it is another.

        Raises:
            UserError: the base is packed already.
        """
        initial = {key: value.to(self._initial[key]) for key, value in initial.items()}
        if all(torch.equal(value, initial[key]) for key, value in self._initial.items()):
            return
        if any(isinstance(layer.base, PackedLinear) for layer in self.layers):
            raise UserError(
                "the base is packed, and was without another start. Attach with the adapter's seed to load it."
            )
        parts = {f"base_model.model.{name}": part for name, part in self._model.base_model.model.named_modules()}
        with self._materialised():
            for prefix in (key.removesuffix(".lora_A.weight") for key in initial if key.endswith(".lora_A.weight")):
                part: Any = parts[prefix]
                weight = part.get_base_layer().weight.data
                weight.copy_(weight.float() + moved(prefix, part.scaling[_ADAPTER], self._initial, initial))
        self._initial = initial

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


def fast_form_of(layer: AdaptedLinear) -> LowRank | Deltas | None:
    """Return the fast form of a layer's adapters, None where peft's own forward pass must do."""
    starts, start, adapted = [], 0, []
    part: Any
    for part in layer.parts:
        if not isinstance(part, Rows):
            adapted.append(part)
            starts.append(start)
        start += part.out_features
    if adapted and all(_is_plain_delta(part) for part in adapted):
        return Deltas(list(layer.parts), _ADAPTER)
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


def _is_plain_delta(part: Any) -> bool:
    """Whether a layer is LoHa or LoKr and nothing of it is dropped."""
    from peft.tuners.loha.layer import Linear as LohaLinear
    from peft.tuners.lokr.layer import Linear as LokrLinear

    if type(part) not in (LohaLinear, LokrLinear):
        return False
    return not part.rank_dropout[_ADAPTER] and not part.module_dropout[_ADAPTER]


def _places(grown: dict[str, nn.Module], layer: AdaptedLinear) -> list[str]:
    """Return the tree's names of a layer's parts, wrapped or not, in the order of their rows."""
    places = []
    for rows in layer._rows:
        name = next(name for name, module in grown.items() if module is rows)
        places.append(name.removesuffix(".base_layer"))
    return places
