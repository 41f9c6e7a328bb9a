"""Triton is published for Linux alone: where it is missing, doctests leave its kernels out, and the header says so."""

from importlib.util import find_spec

_HAS_TRITON = find_spec("triton") is not None

#: Modules that import Triton at once.
collect_ignore_glob = [] if _HAS_TRITON else ["src/*_kernel.py", "src/*_kernel_op.py"]


def pytest_report_header() -> str:
    """Say whether the kernels are among what is tested."""
    return "triton: installed" if _HAS_TRITON else "triton: not installed, modules with its kernels are left out"
