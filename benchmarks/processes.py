"""What the kernel says of processes: processor time and memory (proc(5))."""

import contextlib
import os
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def family(pid: int) -> list[int]:
    """Name a process and everything below it."""
    members = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread that has just ended
            members += (member for child in task.read_text().split() for member in family(int(child)))
    return members


def seconds(pid: int) -> float:
    """Give the processor seconds, user's and system's, of a process and everything below it."""
    total = 0
    for member in family(pid):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total / TICKS


def busy() -> float:
    """Give the seconds that all processors together have worked, for anybody."""
    user, nice, system, _idle, _waiting, irq, softirq = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:8]
    return sum(map(int, (user, nice, system, irq, softirq))) / TICKS


def memory_mib(pid: int, kind: str = "VmRSS") -> float:
    """Give the memory of a process and everything below it in MiB: what is in RAM now, or was at most (VmHWM)."""
    total = 0
    for member in family(pid):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{member}/status").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith(f"{kind}:"))
    return total / 1024
