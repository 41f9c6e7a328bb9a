"""Triton's interpreter runs the kernels on a processor: results and gradients are those of the plain forms."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.prove,
    pytest.mark.skipif(sys.platform != "linux", reason="Triton is published for Linux alone"),
]

#: Query heads, key/value heads, width of a head, tokens of a block: the groups of 7, 6 and 8 of the sizes that the
#: paper trains; a block of several tiles of which the last is cut; a narrow head, with which the whole mixer is run.
CASES = ["14 2 64 16", "12 2 128 16", "16 2 128 16", "4 2 36 80", "14 2 12 8"]


@pytest.mark.parametrize("case", CASES)
def test_the_kernels_of_nsa_give_results_and_gradients_of_the_plain_branch(case, tmp_path):
    script = Path(__file__).with_name("interpret_nsa.py")
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, str(script), *case.split()], env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("packed=") == 4


@pytest.mark.parametrize(
    ("kernel", "comparisons"),
    [("cross_entropy", 6), ("gated", 24), ("triangular", 9), ("carry", 21), ("short_conv", 24), ("dequantise", 13)],
)
def test_the_kernels_of_training_give_results_and_gradients_of_float64(kernel, comparisons, tmp_path):
    script = Path(__file__).with_name("interpret_training.py")
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, str(script), kernel], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("same ") == comparisons


def test_the_kernels_of_packed_matrices_give_the_products_of_float64(tmp_path):
    script = Path(__file__).with_name("interpret_packed.py")
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    apart = {name: float(value) for name, _, value in (line.rpartition(" ") for line in done.stdout.splitlines())}
    # The interpreter makes 8-bit floats by cutting, not by rounding: one in seven at most.
    bounds = {"int4_matrix": 0.0, "int4_rows": 1e-5, "table_rows": 1e-6, "byte_rows": 1e-6, "quantised": 1 / 7 + 1e-6}
    assert {name.split()[0] for name in apart} == set(bounds)
    assert [name for name, value in apart.items() if not value <= bounds[name.split()[0]]] == []


def test_the_lookups_instructions_put_each_codes_value_in_its_place():
    """The interpreter knows no assembly: its few instructions are carried out here, on all bytes of codes."""
    import torch

    from efficientllm.precision import nf4
    from efficientllm.precision._table_rows_kernel import assembly

    text = assembly(nf4.VALUES)
    assert len(text.splitlines()) == 1, "torch's compiler puts it into a comment"
    steps = [step.replace(",", "").split() for step in text.strip("{ }").split(";")[1:-1]]
    for lowest in range(0, 256, 4):
        held = {"$4": int.from_bytes(bytes(range(lowest, lowest + 4)), "little")}
        for name, to, *given in steps:
            held[to] = perform(name, [held[word] if word in held else int(word, 0) for word in given])
        words = torch.tensor([held[f"${number}"] for number in range(4)], dtype=torch.int64)
        found = torch.stack((words & 0xFFFF, words >> 16), -1).flatten().to(torch.uint16).view(torch.bfloat16)
        codes = [byte & 15 for byte in range(lowest, lowest + 4)] + [byte >> 4 for byte in range(lowest, lowest + 4)]
        assert torch.equal(found, torch.tensor(nf4.VALUES).bfloat16()[codes])


def perform(name, given):
    """Carry out one instruction of PTX."""
    if name == "prmt.b32":
        pool = given[0].to_bytes(4, "little") + given[1].to_bytes(4, "little")
        chosen = [given[2] >> 4 * place & 15 for place in range(4)]
        assert max(chosen) < 8, "the fourth bit would repeat a sign"
        return int.from_bytes(bytes(pool[one] for one in chosen), "little")
    return {"shr.u32": int.__rshift__, "and.b32": int.__and__, "or.b32": int.__or__}[name](*given)
