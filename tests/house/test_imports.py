"""The house: imports point down, never across, in no cycle; the reading wing needs no torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src" / "efficientllm"

#: Rooms from the ground up. A room may import rooms below it, and itself.
LEVELS = [
    {"errors", "units"},
    {"catalog"},
    {"registry", "checking"},
    {"records"},
    {"recipes"},
    {"store", "stats", "physics"},
    {"data", "devices", "precision", "analysis", "validity"},
    {"models", "report"},
    {"engines", "adapters", "meters", "training"},
    {"planner"},
    {"workloads"},
    {"bench"},
    {"cli"},
    {"api"},
]
#: The rooms that join the wings: the command line, and the package from Python.
JOINING = {"cli", "api"}
MEASURING = {"data", "devices", "models", "adapters", "precision", "engines", "meters", "training", "planner"}
MEASURING |= {"workloads", "bench"}
READING = {"analysis", "report", "validity"}
TORCH_FREE = {
    "errors",
    "units",
    "catalog",
    "registry",
    "checking",
    "records",
    "recipes",
    "store",
    "stats",
    "physics",
} | READING


def modules():
    return sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")


def room_of(path):
    parts = path.relative_to(PACKAGE).parts
    return parts[0].removesuffix(".py")


def imported_rooms(path):
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        rooms |= {name.split(".")[1] for name in names if name.startswith("efficientllm.")}
    return rooms - {"__version__"}


def level(room):
    return next(i for i, rooms in enumerate(LEVELS) if room in rooms)


def test_every_room_has_a_level():
    rooms = {room_of(path) for path in modules()}
    assert rooms <= set().union(*LEVELS), rooms - set().union(*LEVELS)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path):
    room = room_of(path)
    for other in imported_rooms(path) - {room}:
        assert level(other) < level(room), f"{room} imports {other}, which is not below it"
        wings = {room, other} & MEASURING, {room, other} & READING
        assert room in JOINING or not all(wings), f"{room} and {other} are of two wings"


def test_no_module_imports_itself_in_a_circle():
    graph = {path: module_imports(path) for path in PACKAGE.rglob("*.py")}
    done, path_now = set(), []

    def visit(node):
        assert node not in path_now, " -> ".join(p.name for p in [*path_now, node])
        if node in done:
            return
        path_now.append(node)
        for child in graph[node]:
            visit(child)
        path_now.pop()
        done.add(node)

    for node in graph:
        visit(node)


def module_imports(path):
    """Imports at import time only: one inside a function cannot close a circle."""
    tree = ast.parse(path.read_text())
    inside = {id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef | ast.Lambda) for n in ast.walk(f)}
    typing_only = {
        id(n)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for n in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in inside | typing_only or not isinstance(node, ast.ImportFrom) or not node.module:
            continue
        for name in [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]:
            if name.startswith("efficientllm."):
                file = PACKAGE.joinpath(*name.split(".")[1:]).with_suffix(".py")
                if file.is_file():
                    found.add(file)
    return found


def test_all_but_the_measuring_wing_loads_with_torch_blocked():
    names = [
        ".".join(["efficientllm", *path.relative_to(PACKAGE).with_suffix("").parts])
        for path in modules()
        if room_of(path) in TORCH_FREE
    ]
    code = (
        "import sys, importlib\n"
        "for name in ('torch', 'transformers', 'tokenizers', 'safetensors', 'datasets'): sys.modules[name] = None\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "print('loaded')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "loaded", done.stderr


def test_help_imports_neither_torch_nor_anything_heavy():
    code = (
        "import sys\nfrom efficientllm.cli.main import build_app\n"
        "from typer.testing import CliRunner\n"
        "done = CliRunner().invoke(build_app(), ['--help'])\n"
        "assert done.exit_code == 0 and 'quickstart' not in done.output and 'doctor' in done.output\n"
        "heavy = {'torch', 'transformers', 'scipy', 'numpy', 'altair', 'tokenizers'} & set(sys.modules)\n"
        "print(sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
