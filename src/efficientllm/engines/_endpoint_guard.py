"""Keeps a server that we started from outliving us, however we end: it ends the whole process group.

python -m efficientllm.engines._endpoint_guard COMMAND …      (its standard input is a pipe that we hold open)

It leads a process group of its own, in which the server runs. When the pipe closes, because we closed it or are gone,
the group gets SIGTERM and, if it takes longer than that, SIGKILL. It exits as the server exits.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

PATIENCE_S = 5.0
_POLL_S = 0.05


def main(command: list[str]) -> None:
    """Run the command until it ends or nobody holds our input."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)  # no SIG_IGN: the server would inherit that
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        sys.exit(127)
    left = threading.Event()
    threading.Thread(target=_wait_for_end_of_input, args=(left,), daemon=True).start()
    while child.poll() is None and not left.wait(_POLL_S):
        pass
    if child.poll() is None:
        os.killpg(0, signal.SIGTERM)
        _wait_a_while(child)
    _end_others()
    os._exit(min(abs(child.poll() or 0), 255))


def _wait_for_end_of_input(left: threading.Event) -> None:
    with open(0, "rb", buffering=0, closefd=False) as pipe:
        while pipe.read(1):
            pass
    left.set()


def _wait_a_while(child: subprocess.Popen[bytes]) -> None:
    end_s = time.perf_counter() + PATIENCE_S
    while child.poll() is None and time.perf_counter() < end_s:
        time.sleep(_POLL_S)


def _end_others() -> None:
    """End what is left of the group, but for ourselves."""
    import psutil

    own = os.getpgid(0)
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and os.getpgid(process.pid) == own:
                os.kill(process.pid, signal.SIGKILL)
        except OSError:
            continue  # it has just gone


if __name__ == "__main__":
    main(sys.argv[1:])
