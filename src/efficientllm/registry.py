"""Loads an entry by its name or by the path of a user's own file."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from efficientllm import catalog
from efficientllm.errors import UserError


def load(kind: str, name: str, where: str = "") -> Any:
    """Import an entry's file and return its `ENTRY`.

    Args:
        kind: a kind of `catalog.FOLDERS`.
        name: an entry's name, or the path of a `.py` file that ends with `ENTRY = ...`, or for a method that of an
            `adapter_config.json` or its folder.
        where: file and key to quote when the name is unknown.

    Raises:
        UnknownNameError: there is no such entry.
        UserError: the user's file cannot be imported or has no `ENTRY`.
    """
    path = catalog.path_of(kind, name, where)
    if not catalog.is_path(kind, name):
        return importlib.import_module(catalog.module_name(kind, name)).ENTRY
    if path.suffix == ".json":
        return importlib.import_module(catalog.module_name(kind, "_own_config")).entry_of(path)
    return _load_file(path)


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _load_file(path: Path) -> Any:
    module_name = f"efficientllm_user_{path.stem}_{file_sha256(path)[:12]}"
    if module_name not in sys.modules:
        spec = importlib.util.spec_from_file_location(module_name, path)
        assert spec is not None and spec.loader is not None  # a .py file always has a loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[module_name]
            raise UserError(f"{path} cannot be imported: {type(error).__name__}: {error}. Mend the file.") from error
    entry = getattr(sys.modules[module_name], "ENTRY", None)
    if entry is None:
        raise UserError(f"{path} has no ENTRY. End the file with `ENTRY = ...`, as the entries of the package do.")
    return entry
