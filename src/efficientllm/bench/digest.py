"""A digest of the measuring code that a trial loads, so that a change of that code means a new measurement.

The code is found without running it: from the worker and the trial's own entries, along the import statements.
Comments and docstrings do not count.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import sys
from pathlib import Path

import msgspec

from efficientllm import catalog
from efficientllm.records.choice import Choice
from efficientllm.records.model_settings import ModelSettings
from efficientllm.records.settings import Settings, UserSettings, choices_of, slot_of
from efficientllm.registry import file_sha256

_PREFIX = "efficientllm."


def code_digest(settings: Settings, device: str, parent_digest: str = "", stamp: str = "") -> str:
    """Return a hash over the code behind a trial and, where it takes an artifact, over its parent's.

    A plan is gone through several times: with `package_stamp`, what was found under the same one is not sought again.
    """
    if not stamp:
        return _code_digest(settings, device, parent_digest)
    key = (stamp, type(settings), msgspec.json.encode(settings), device, parent_digest)
    if key not in _FOUND:
        _FOUND[key] = _code_digest(settings, device, parent_digest)
    return _FOUND[key]


def package_stamp() -> str:
    """Return what changes with every file of the package that is edited, added or taken away."""
    files = ((str(path), path.stat().st_mtime_ns) for path in sorted(catalog.PACKAGE.rglob("*.py")))
    return hashlib.sha256(repr(list(files)).encode()).hexdigest()


#: Stamp, kind and text of settings, device, parent's digest -> digest.
_FOUND: dict[tuple[str, type, bytes, str, str], str] = {}


def _code_digest(settings: Settings, device: str, parent_digest: str) -> str:
    workload = catalog.path_of("workload", str(type(settings).__struct_config__.tag))
    roots = [catalog.PACKAGE / "bench" / "worker.py", workload, *_entry_files(settings, device)]
    return digest_of(roots, parent_digest)


def inline_digest(settings: UserSettings, device: str) -> str:
    """Return a hash over the code that measures a loop of somebody's own, and over the script that holds the loop.

    In a notebook or at a prompt there is no script, and only the measuring code counts.
    """
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    own = file_sha256(Path(script)) if script and Path(script).is_file() else ""
    return digest_of([catalog.PACKAGE / "bench" / "inline.py", *_entry_files(settings, device)], own)


def digest_of(roots: list[Path], first: str) -> str:
    """Return a hash over all code of the package that some of its files lead to, begun with `first`."""
    digest = hashlib.sha256(first.encode())
    for path in sorted(closure(roots)):
        digest.update(str(path.relative_to(catalog.PACKAGE)).encode())
        digest.update(_meaning(path, path.stat().st_mtime_ns).encode())
    return digest.hexdigest()[:16]


def closure(roots: list[Path]) -> set[Path]:
    """Return the package's files that `roots` import, directly or not, and the roots themselves."""
    found: set[Path] = set()
    waiting = list(roots)
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += _imported(path, path.stat().st_mtime_ns)
    return found


def _entry_files(settings: Settings, device: str) -> list[Path]:
    files = [catalog.path_of("device", device)]
    files += [catalog.path_of("meter", name) for name in catalog.names("meter")]
    if isinstance(settings, ModelSettings):
        for field in msgspec.structs.fields(type(settings)):
            for choice in choices_of(getattr(settings, field.name)):
                files += _choice_files(slot_of(field.name), choice)
    return files


def _choice_files(kind: str, choice: Choice) -> list[Path]:
    """Return an entry's file; a user's own counts by its hash in the trial, a path of text may need any reader."""
    if choice.path:
        return []
    known = catalog.names(kind)
    return [catalog.path_of(kind, name) for name in ([choice.name] if choice.name in known else known)]


@functools.lru_cache(maxsize=4096)
def _imported(path: Path, _mtime_ns: int) -> tuple[Path, ...]:
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules.add(node.module)
            modules.update(f"{node.module}.{alias.name}" for alias in node.names)
    files = (_file_of(module) for module in modules if module.startswith(_PREFIX))
    return tuple(file for file in files if file)


def _file_of(module: str) -> Path | None:
    file = catalog.PACKAGE.joinpath(*module.removeprefix(_PREFIX).split("."))
    return next((path for path in (file.with_suffix(".py"), file / "__init__.py") if path.is_file()), None)


@functools.lru_cache(maxsize=4096)
def _meaning(path: Path, _mtime_ns: int) -> str:
    """Return a file's code without comments, docstrings and layout."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
            ast.get_docstring(node) is not None
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree)
