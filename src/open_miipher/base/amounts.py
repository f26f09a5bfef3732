"""Numbers, lengths of time and sizes for people, in a unit that fits."""

import re


def counted(number: int, things: str) -> str:
    """Return `1 file`, `1 batch` or `2,000 files`."""
    return f"{number:,} {re.sub(r'(?<=ch)es$|s$', '', things) if number == 1 else things}"


def duration(seconds: float) -> str:
    """Return `12.5 s`, `3.4 min` or `1,234.50 h`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    if seconds < 59.95 * 60:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:,.2f} h"


def size(num_bytes: float) -> str:
    """Return `0 bytes`, `3.4 kB`, `12.5 MB` or `1,234.5 GB`."""
    if num_bytes < 1000:
        return f"{num_bytes:.0f} bytes"
    for unit, scale in (("kB", 1e3), ("MB", 1e6)):
        if num_bytes < 999.95 * scale:
            return f"{num_bytes / scale:.1f} {unit}"
    return f"{num_bytes / 1e9:,.1f} GB"
