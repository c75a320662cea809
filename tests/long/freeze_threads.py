"""Stops some threads of a process and lets all others run, as a hang does and SIGSTOP does not.

    python freeze_threads.py PID NAME

Prints how many threads called NAME were stopped, and ends with them. Linux alone; needs leave to trace the process.
"""

import ctypes
import os
import sys
from pathlib import Path

PTRACE_SEIZE, PTRACE_INTERRUPT = 0x4206, 0x4207  # linux/ptrace.h
WALL = 0x40000000  # linux/wait.h: threads, too.


def freeze(pid: int, name: str) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    threads = [int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()]
    chosen = [tid for tid in threads if Path(f"/proc/{pid}/task/{tid}/comm").read_text().strip() == name]
    for tid in chosen:
        for request in (PTRACE_SEIZE, PTRACE_INTERRUPT):
            if libc.ptrace(request, tid, None, None):
                raise PermissionError(os.strerror(ctypes.get_errno()))
    return len(chosen)


def wait_for_their_end() -> None:
    """A thread that is traced is gone only when its tracer has asked for it."""
    while True:
        try:
            os.waitpid(-1, WALL)
        except ChildProcessError:
            return


if __name__ == "__main__":
    print(freeze(int(sys.argv[1]), sys.argv[2]), flush=True)
    wait_for_their_end()
