"""Every Triton kernel of the package compiles for every kind of device, within the shared memory of the smallest."""

import ast
import importlib
import sys

import pytest

from efficientllm.catalog import PACKAGE
from efficientllm.models.kernel_case import SHARED_BYTES

pytestmark = [
    pytest.mark.prove,
    pytest.mark.skipif(sys.platform != "linux", reason="Triton is published for Linux alone"),
]

#: Compute capabilities: A100, RTX 30, RTX 40, H100 and H200, B200, RTX 50.
CAPABILITIES = [80, 86, 89, 90, 100, 120]


def kernel_modules():
    """Return the names of the modules that have a function `aot_cases`."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        functions = (node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef))
        if any(node.name == "aot_cases" for node in functions):
            found.append(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts))
    return found


def compiled(case, capability):
    import triton
    from triton.backends.compiler import GPUTarget

    # As at a launch: pointers are aligned and whole numbers (lengths, strides) are multiples of 16.
    aligned = {
        (number,): [["tt.divisibility", 16]]
        for number, kind in enumerate(case.signature.values())
        if kind.startswith("*") or kind == "i32"
    }
    source = triton.compiler.ASTSource(case.kernel, dict(case.signature), dict(case.constants), aligned)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=dict(case.options))


def test_a_module_that_uses_triton_says_how_its_kernels_are_launched():
    using = {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        for path in PACKAGE.rglob("*.py")
        if "@triton.jit" in path.read_text()
    }
    assert using
    assert using == set(kernel_modules())


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("module", kernel_modules())
def test_the_kernels_compile_within_99_kib_of_shared_memory(module, capability, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    cases = list(importlib.import_module(module).aot_cases())
    assert cases
    for case in (one for one in cases if one.since <= capability):
        made = compiled(case, capability)
        assert made.metadata.shared <= SHARED_BYTES, (
            f"{case.name} takes {made.metadata.shared} bytes on sm_{capability}"
        )
        assert len(made.asm["cubin"]) > 0
