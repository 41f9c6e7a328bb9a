"""Brings a model of the transformers library up: of a folder, or with the random weights that engine native would have.

Only safetensors are read, and no code that came with a checkpoint runs unless `remote_code` says so. What does not
belong together is refused: the library itself would draw missing weights at random, with a warning.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from efficientllm.engines import _transformers_quantised as quantised
from efficientllm.engines._context import context_tokens
from efficientllm.errors import Unsupported, UserError, did_you_mean
from efficientllm.models import checkpoint
from efficientllm.models.assemble import assemble
from efficientllm.models.build import build_decoder
from efficientllm.models.decoder import Decoder
from efficientllm.models.families import ARCHITECTURES, config_of
from efficientllm.models.match import matched
from efficientllm.models.shape import resolve_shape
from efficientllm.models.weight_files import locate_weights, read_config
from efficientllm.precision.pack import load_precision
from efficientllm.records.choice import refuse_unknown_options
from efficientllm.records.settings import InferenceSettings

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Loaded:
    """A model of the library.

    Attributes:
        model: a `PreTrainedModel`, ready to infer.
        outline: our decoder of the same shape on the device `meta`, by which costs are counted; None where it is of a
            family that ours is not.
        disk_bytes: of its weight files, 0 for random weights.
        context_tokens: the longest text that the folder's config says it is made for, 0 where it says none.
        weights: how the weights of a folder that is quantised already are held; empty for plain ones.
        unpacked: the same model with plain weights on the device `meta`, whose numbers can be counted; None where
            `model` itself is such, or `outline` says it.
    """

    model: Any
    outline: Decoder | None
    disk_bytes: int
    context_tokens: int = 0
    weights: str = ""
    unpacked: Any = None


def load_library() -> None:
    """Import the library with what all its models share; where it is missing, `load_model` says so."""
    with suppress(ImportError):
        importlib.import_module("transformers.models.llama.modeling_llama")


def load_model(
    engine: str, settings: InferenceSettings, folder: Path | None, vocab_tokens: int, seed: int, device: str
) -> Loaded:
    """Return the model of a folder, or random weights: the very numbers of engine native for this seed and device.

    Raises:
        UserError: an option or a dtype that there is none of, or a folder whose files do not belong together.
        Unsupported: no such device here, no such architecture in the library, a library that is missing, or a model
            that transformers runs without a cache.
    """
    refuse_unknown_options("engine", settings.engine, _options(engine))
    _check_compile(engine, settings)
    dtype, where = _dtype(engine, settings), torch.device(device)
    if where.type not in ("cpu", "cuda"):
        raise Unsupported(f"engine {engine} runs on cpu and cuda, not on {where.type}")
    if where.type == "cuda" and not torch.cuda.is_available():
        raise Unsupported("torch finds no CUDA device")
    if importlib.util.find_spec("transformers") is None:
        raise Unsupported(f"engine {engine} needs the package transformers")
    if folder is None:
        return _random(engine, settings, vocab_tokens, seed, where, dtype)
    config = read_config(folder)
    if config.get("model_type") == checkpoint.MODEL_TYPE:
        raise Unsupported(_no_cache(engine, checkpoint.describe(folder)[0].mixer.name))
    locate_weights(folder)  # what is wrong with the files is said here, before anything is built
    remote_code = settings.engine.options.get("remote_code") is True
    if config.get("auto_map") and not remote_code and config.get("model_type") not in ARCHITECTURES:
        raise UserError(
            f"{folder}: config.json names code of its own, which would have to run. "
            "Read it, then set the engine's option remote_code: true."
        )
    scheme = quantised.scheme_of(config)
    quantised.check_scheme(folder, scheme)
    model = _from_folder(engine, folder, dtype, where, remote_code, quantised.arguments(engine, scheme))
    outline = checkpoint.outline(folder, dtype=dtype) if config.get("model_type") in ARCHITECTURES else None
    weights, unpacked = "", None
    if scheme is not None:
        quantised.check_dtype(folder, model, dtype)
        quantised.settle(model)
        weights = quantised.told(scheme, config, model)
        unpacked = _unpacked(model, remote_code) if outline is None else None
    length = context_tokens(model.config.get_text_config().to_dict())
    return Loaded(model, outline, checkpoint.weight_file_bytes(folder), length, weights, unpacked)


def _options(engine: str) -> list[str]:
    return ["remote_code", *(["compiled"] if engine == "transformers_static" else [])]


def _check_compile(engine: str, settings: InferenceSettings) -> None:
    if settings.compile and engine != "transformers_static":
        raise Unsupported(
            f"compile: true: engine {engine} runs eager. Engine transformers_static has a compiled decode"
        )
    if settings.compile and not settings.engine.options.get("compiled", True):
        raise UserError("compile: true and the engine's option compiled: false contradict each other. Drop one.")


def _dtype(engine: str, settings: InferenceSettings) -> torch.dtype:
    if settings.cache is not None:
        raise Unsupported(
            f"cache {settings.cache.name}: the cache of engine {engine} has the format of the activations; "
            "engine native has others"
        )
    name: str = settings.dtype
    if settings.precision is not None:
        name = load_precision(settings.precision).dtype
        if not name:
            raise Unsupported(
                f"precision {settings.precision.name}: engine {engine} packs no weights itself. It loads folders that "
                "are quantised already (model); engine native packs"
            )
    if name not in _DTYPES:
        raise UserError(f"unknown dtype {name!r}. {did_you_mean(name, _DTYPES)}Known: {', '.join(_DTYPES)}.")
    return _DTYPES[name]


def _no_cache(engine: str, mixer: str) -> str:
    return (
        f"engine {engine}: mixer {mixer} with these slots is of no family that transformers has; it would run there "
        "without a cache, all tokens again for each new one. Engine native serves it"
    )


def _random(
    engine: str, settings: InferenceSettings, vocab_tokens: int, seed: int, where: torch.device, dtype: torch.dtype
) -> Loaded:
    """Build the weights as engine native does, and hand them over; both are on the host only as long as that takes."""
    shape, parts, adjusted = matched(resolve_shape(settings, vocab_tokens), settings)
    outline = assemble(shape, parts, device="meta", dtype=dtype)
    outline.adjusted = adjusted
    family = checkpoint.family_of_decoder(outline)
    if family is None:
        raise Unsupported(_no_cache(engine, settings.mixer.name))
    import transformers

    decoder = build_decoder(settings, vocab_tokens=vocab_tokens, seed=seed, device="cpu", dtype=dtype, draws_on=where)
    class_ = getattr(transformers, ARCHITECTURES[family])
    config = class_.config_class.from_dict(config_of(outline.block(0).mixer.shape, family, _name(dtype)))
    weights = dict(checkpoint.file_tensors(decoder))
    with _quiet():
        model, found = class_.from_pretrained(
            None, config=config, state_dict=weights, dtype=dtype, output_loading_info=True
        )
    assert not found["missing_keys"] and not found["unexpected_keys"] and not found["mismatched_keys"], found
    return Loaded(model.to(where), outline, 0)


def _unpacked(model: Any, remote_code: bool) -> Any:
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(model.config, trust_remote_code=remote_code)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _from_folder(
    engine: str, folder: Path, dtype: torch.dtype, where: torch.device, remote_code: bool, more: dict[str, Any]
) -> Any:
    from transformers import AutoModelForCausalLM

    placed: dict[str, Any] = (
        {"device_map": str(where)} if where.type == "cuda" and importlib.util.find_spec("accelerate") else {}
    )
    try:
        with _quiet():
            model, found = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=remote_code,
                local_files_only=True,
                ignore_mismatched_sizes=True,  # they are refused below, by name
                output_loading_info=True,
                **placed,
                **more,
            )
    except ImportError as error:
        raise Unsupported(f"engine {engine}: {folder}: a package is missing: {_first_line(error)}") from error
    except torch.OutOfMemoryError:
        raise
    except (OSError, RuntimeError) as error:
        raise UserError(f"{folder}: its files do not belong together or are damaged: {_first_line(error)}") from error
    except (ValueError, KeyError) as error:
        raise Unsupported(f"engine {engine} cannot load {folder}: {_first_line(error)}") from error
    _check_found(folder, found)
    return model if placed else model.to(where)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's bars and tables to itself: what they say of a checkpoint is said in one line, or is wrong."""
    from transformers.utils import logging

    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def _check_found(folder: Path, found: dict[str, Collection[Any]]) -> None:
    """Refuse weights that are missing, misshapen or left over."""
    for key, what in (("missing_keys", "lacks"), ("mismatched_keys", "has another shape of")):
        if found[key]:
            names = sorted(name if isinstance(name, str) else name[0] for name in found[key])
            raise UserError(f"{folder} {what} {names[0]}. Its config.json and its weights do not belong together.")
    if found["unexpected_keys"]:
        raise UserError(
            f"{folder} has {min(found['unexpected_keys'])}, which this model has no place for. "
            "Its config.json and its weights do not belong together."
        )


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
