"""Every module and every public function and class says what it is."""

import ast

import pytest

from efficientllm.catalog import PACKAGE

FILES = sorted(PACKAGE.rglob("*.py"))
PARTS = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_every_module_and_public_name_is_documented(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{path} has no docstring"
    owners = [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))]
    for node in (child for owner in owners for child in owner.body if isinstance(child, PARTS)):
        if not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{path}:{node.lineno} {node.name} has no docstring"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_file_is_too_long_to_read(path):
    """250 lines is where a file is looked at again; 300 is where it must be split."""
    assert len(path.read_text().splitlines()) <= 300
