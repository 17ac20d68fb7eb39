"""What the figures were measured on."""

import os
import platform
import time
from pathlib import Path
from typing import NamedTuple, Self


def machine() -> dict[str, str | int | float]:
    """`load` is the machine's own average of the last minute: what others do on it is in every figure."""
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cores": os.cpu_count() or 0,
        "cpu": cpu.partition(": ")[2],
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
    }


class Busy(NamedTuple):
    """Of all cores since the machine began, in clock ticks: worked, and gone by."""

    worked: int
    gone_by: int

    def since(self, before: Self) -> float:
        """The share of all cores that somebody used meanwhile."""
        return (self.worked - before.worked) / (self.gone_by - before.gone_by)


def busy() -> Busy:
    """The first line of proc_stat(5): user, nice, system, idle, iowait, irq, softirq, steal."""
    ticks = [int(each) for each in Path("/proc/stat").read_text().partition("\n")[0].split()[1:9]]
    return Busy(sum(ticks) - ticks[3] - ticks[4], sum(ticks))
