"""What all tests share: one thread a process, and kernels left out where there is no Triton.

Two test processes of two threads each on two cores wait for one another at every product: the suite took 10 min 30 s,
and takes 3 min 45 s with one thread a process. Workers that tests start set their own threads.

Triton is published for Linux alone: where it is missing, doctests leave its kernels out, and the header says so.
"""

import os
from collections import Counter
from importlib.util import find_spec

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

_HAS_TRITON = find_spec("triton") is not None

#: Modules that import Triton at once.
collect_ignore_glob = [] if _HAS_TRITON else ["src/*_kernel.py", "src/*_kernel_op.py"]


def pytest_report_header() -> str:
    """Say whether the kernels are among what is tested."""
    return "triton: installed" if _HAS_TRITON else "triton: not installed, modules with its kernels are left out"


def pytest_terminal_summary(terminalreporter) -> None:  # noqa: ANN001
    """Say what was left out, and why: a test that did not run is no test that passed."""
    reports = terminalreporter.stats.get("skipped", [])
    reasons = Counter(report.longrepr[2] for report in reports if isinstance(report.longrepr, tuple))
    for reason, number in reasons.items():
        terminalreporter.write_line(f"left out: {number} {'test' if number == 1 else 'tests'}: {reason}")
