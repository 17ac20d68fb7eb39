"""The machine on which the figures were measured."""

import os
import platform
import time
from pathlib import Path
from typing import NamedTuple, Self


def machine() -> dict[str, str | int | float]:
    """Return a description. `load` is the average of the last minute, with the load of other processes."""
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cores": os.cpu_count() or 0,
        "cpu": cpu.partition(": ")[2],
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
    }


class CpuTicks(NamedTuple):
    """Clock ticks of all cores since the machine started: those in use, and all."""

    busy: int
    elapsed: int

    def busy_share_since(self, before: Self) -> float:
        """Return the share of all cores that was in use since `before`."""
        return (self.busy - before.busy) / (self.elapsed - before.elapsed)


def cpu_ticks() -> CpuTicks:
    """Read the first line of proc_stat(5): user, nice, system, idle, iowait, irq, softirq, steal."""
    ticks = [int(each) for each in Path("/proc/stat").read_text().partition("\n")[0].split()[1:9]]
    return CpuTicks(sum(ticks) - ticks[3] - ticks[4], sum(ticks))
