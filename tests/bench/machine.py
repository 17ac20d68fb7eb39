"""What the figures were measured on."""

import os
import platform
import time
from pathlib import Path


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
