"""Where a model's files are: a folder, or a hub id whose files are fetched once."""

from __future__ import annotations

from pathlib import Path

from efficientllm.errors import UserError, did_you_mean

#: What is fetched: weights as safetensors, what describes them, the tokenizer. Never code.
_FILES = ("*.safetensors", "*.json", "*.jinja")


def locate_model(name: str, *, with_code: bool = False) -> Path:
    """Return the folder of a model.

    Args:
        name: a folder, or a hub id such as `Qwen/Qwen2.5-0.5B`.
        with_code: whether its Python files are fetched too, for an engine that was told to run them.

    Raises:
        UserError: no such folder, or none with a model, and nothing of that name can be had from the hub.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _with_a_model(folder, name)
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        what = "a file, where a folder is wanted" if folder.is_file() else "no such folder"
        beside = [path.name for path in folder.parent.iterdir() if path.is_dir()] if folder.parent.is_dir() else []
        near = did_you_mean(folder.name, beside)
        raise UserError(f"model {name!r}: {what}. {near}Give the folder of a saved model, or a hub id.")
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=[*_FILES, *(["*.py"] if with_code else [])]))
    except (OSError, ValueError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"model {name!r} is no folder here and could not be had from the hub: {first}") from error


def _with_a_model(folder: Path, name: str) -> Path:
    if (folder / "config.json").is_file():
        return folder
    if (folder / "adapter_config.json").is_file():
        raise UserError(
            f"model {name!r}: the folder holds an adapter and no config.json. Give the folder of the model that it "
            f"adapts; method: {name} trains such an adapter anew."
        )
    raise UserError(f"model {name!r}: the folder holds no config.json. Give the folder of a saved model, or a hub id.")
