"""Where every kind of entry lives: the folder is the registry, the file's name is the entry's name.

Nothing here imports an entry, so listing them costs no torch: names come from the folder, cards are read from the
source text.
"""

from __future__ import annotations

import ast
import functools
import os
from pathlib import Path

from efficientllm.errors import NoSuchFileError, UnknownNameError, did_you_mean

PACKAGE = Path(__file__).parent

#: kind of entry -> its folder, relative to the package. This is a list of folders, not of entries.
FOLDERS = {
    "mixer": "models/mixers",
    "position": "models/position",
    "mlp": "models/mlp",
    "preset": "models/presets",
    "corpus": "data/corpora",
    "optimizer": "training/optimizers",
    "schedule": "training/schedules",
    "method": "adapters",
    "precision": "precision",
    "cache_format": "precision/cache",
    "instructions": "data/instructions",
    "questions": "data/questions",
    "engine": "engines",
    "device": "devices",
    "meter": "meters",
    "workload": "workloads",
    "metric": "analysis/metrics",
    "check": "validity/checks",
    "recipe": "recipes/builtin",
}


def kind_of(word: str) -> str:
    """Return the kind that `word` names, in the singular or the plural.

    >>> kind_of("mixers"), kind_of("corpora")
    ('mixer', 'corpus')
    """
    for kind, folder in FOLDERS.items():
        if word in (kind, f"{kind}s", folder.rpartition("/")[2]):
            return kind
    raise UnknownNameError("kind", word, FOLDERS)


def names(kind: str) -> list[str]:
    """Return the names of all entries of a kind, sorted, without importing any.

    A recipe in a folder has the folder in its name (`architecture/quality`).
    """
    folder = PACKAGE / FOLDERS[kind]
    if kind == "recipe":
        return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))
    return sorted(path.stem for path in folder.glob("*.py") if not path.name.startswith("_") and _has_entry(path))


def is_path(kind: str, name: str) -> bool:
    """Whether an address is the path of a user's own file: one that ends with `.py`, or an adapter's configuration.

    That may be given by its folder; an entry's name is the entry, whatever folders there are. A path that leads nowhere
    is one all the same.
    """
    if kind == "recipe" or name in names(kind):
        return False
    return looks_like_path(name) or (kind == "method" and Path(name).is_dir())


def looks_like_path(name: str) -> bool:
    """Whether a word can only be meant as a path.

    >>> [looks_like_path(name) for name in ("mla", "my_mixer.py", "./adapter", "adapter_confg.json")]
    [False, True, True, True]
    """
    return "/" in name or os.sep in name or name.startswith((".", "~")) or name.endswith((".py", ".json"))


def path_of(kind: str, name: str, where: str = "") -> Path:
    """Return the file of an entry: `mla` -> `models/mixers/mla.py`; a path to a `.py` file is itself.

    So is, for a method, that of an `adapter_config.json`, or of a folder that holds one.

    Raises:
        UnknownNameError: no such entry; the message names the nearest.
        NoSuchFileError: a path that leads to no such file; the message says what was looked for.
    """
    if _is_entry(kind, name):  # the common case, without a look at all files of the folder
        return PACKAGE / FOLDERS[kind] / f"{name}.py"
    if is_path(kind, name):
        return _own_file(kind, name, where)
    if name not in names(kind):
        raise UnknownNameError(kind, name, names(kind), where)
    return PACKAGE / FOLDERS[kind] / f"{name}{'.yaml' if kind == 'recipe' else '.py'}"


def _own_file(kind: str, name: str, where: str) -> Path:
    """Return the file that a path leads to."""
    path = Path(name).expanduser()
    if kind == "method" and path.is_dir():
        path, what = path / "adapter_config.json", "the folder holds no adapter_config.json"
    else:
        what = "a folder, where a file is wanted" if path.is_dir() else "no such file"
    wanted = (".py", ".json") if kind == "method" else (".py",)
    if path.is_file() and path.suffix in wanted:
        return path.resolve()
    if path.is_file():
        what = (
            f"the file ends with none of {', '.join(wanted)}" if len(wanted) > 1 else f"the file is no {wanted[0]} file"
        )
    beside = [file.name for file in path.parent.iterdir() if file.suffix in wanted] if path.parent.is_dir() else []
    near = did_you_mean(path.name, beside).strip()
    own = "Give a .py file, an adapter_config.json or its folder" if kind == "method" else "Give a .py file"
    raise NoSuchFileError(kind, name, what, f"{near} {own}".strip(), names(kind), where)


def module_name(kind: str, name: str) -> str:
    """Return the dotted module of an entry inside the package.

    >>> module_name("mixer", "mla")
    'efficientllm.models.mixers.mla'
    """
    return f"efficientllm.{FOLDERS[kind].replace('/', '.')}.{name}"


def title(path: Path) -> str:
    """Return the first sentence of an entry file's docstring (of a recipe: of its leading comment)."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".yaml":
        first = text.splitlines()[0] if text else ""
        return first.lstrip("# ").strip() if first.startswith("#") else ""
    return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]


def slots(kind: str, name: str) -> dict[str, str]:
    """Return slot -> entry that an entry's file names as going with it (`SLOTS = {...}`), without importing it.

    An entry that is not here, in a record from elsewhere, names none; who builds it says that it is unknown.
    """
    try:
        path = path_of(kind, name)
    except UnknownNameError:
        return {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "SLOTS" for t in node.targets):
            found: dict[str, str] = ast.literal_eval(node.value)
            return found
    return {}


def _is_entry(kind: str, name: str) -> bool:
    """Whether a word is the plain name of an entry's file; recipes are no modules."""
    plain = name.isidentifier() and not name.startswith("_") and kind != "recipe"
    file = PACKAGE / FOLDERS[kind] / f"{name}.py"
    return plain and file.is_file() and _has_entry(file)


def _has_entry(path: Path) -> bool:
    """Whether a module assigns `ENTRY` at its top level; other files of the folder are its own machinery."""
    return _assigns_entry(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=1024)
def _assigns_entry(path: Path, _mtime_ns: int) -> bool:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return any(
        isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "ENTRY" for t in node.targets)
        for node in tree.body
    )
