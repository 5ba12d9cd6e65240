"""What a benchmark says about the machine that it ran on."""

from __future__ import annotations

import os
import platform
from datetime import date
from pathlib import Path

import numpy as np


def machine() -> str:
    """Processor, cores, load, numpy and day, in one line."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = names[0] if names else name
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{name} ({platform.machine()}), {os.cpu_count()} cores{load}, numpy {np.__version__}, {date.today()}"
