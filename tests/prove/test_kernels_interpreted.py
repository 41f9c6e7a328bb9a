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
    bounds = {"int4_matrix": 0.0, "int4_rows": 1e-5, "byte_rows": 1e-6, "quantised": 1 / 7 + 1e-6}
    assert {name.split()[0] for name in apart} == set(bounds)
    assert [name for name, value in apart.items() if not value <= bounds[name.split()[0]]] == []
