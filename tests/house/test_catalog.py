"""The folders are the registry: every entry is found by its name, every recipe loads and expands."""

import ast
import re

import pytest

from efficientllm import catalog, registry
from efficientllm.errors import UnknownNameError
from efficientllm.recipes.expand import expand
from efficientllm.recipes.load import load_recipe

ENTRIES = [(kind, name) for kind in catalog.FOLDERS if kind != "recipe" for name in catalog.names(kind)]


@pytest.mark.parametrize("kind", catalog.FOLDERS)
def test_every_kind_has_an_entry(kind):
    assert catalog.names(kind)


@pytest.mark.parametrize(("kind", "name"), ENTRIES)
def test_every_entry_is_found_by_its_name_and_says_what_it_is(kind, name):
    assert registry.load(kind, name) is not None
    assert catalog.path_of(kind, name).stem == name
    assert catalog.title(catalog.path_of(kind, name)).endswith((".", ":"))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("name", catalog.names("recipe"))
def test_every_recipe_loads_and_expands(name, device):
    plan = expand(load_recipe(name), device)
    assert len({trial.id for trial in plan.trials}) == len(plan.trials) > 0
    assert catalog.title(catalog.path_of("recipe", name))


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UnknownNameError, match=r"Did you mean 'mla'\? Known: .*gqa"):
        registry.load("mixer", "mla2")


def test_no_second_list_of_mixers_stands_anywhere():
    """A list of entry names outside its folder would have to be edited with every new entry."""
    names = set(catalog.names("mixer"))
    for path in catalog.PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.List | ast.Tuple | ast.Set | ast.Dict):
                items = node.keys if isinstance(node, ast.Dict) else node.elts
                words = {item.value for item in items if isinstance(item, ast.Constant)}
                assert len(words & names) < 3, f"{path.name}:{node.lineno} lists mixers"


def test_the_project_speaks_of_itself_alone():
    """No path of a developer's machine and no registry host in any source, page or document."""
    root = catalog.PACKAGE.parents[1]
    banned = re.compile(r"/wor" r"k/|/ro" r"ot/|file:" r"//|pyp" r"i\.org|Claud" r"e|Anthro" r"pic", re.IGNORECASE)
    tracked = [p for d in ("src", "tests", "docs", "benchmarks", "requirements") for p in (root / d).rglob("*.*")]
    for path in [*tracked, *root.glob("*.md"), root / "Makefile", root / "pyproject.toml"]:
        if path.is_file() and path.suffix in {".py", ".md", ".yaml", ".toml", ".txt", ".html", ".js", ".css", ""}:
            found = banned.search(path.read_text(encoding="utf-8"))
            assert found is None, f"{path}: {found and found[0]}"
