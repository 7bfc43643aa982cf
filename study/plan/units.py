"""Times, sizes and amounts of computation as people read them."""

from __future__ import annotations


def format_duration(seconds: float) -> str:
    """12 s, 5 min, 3.5 h, 4.2 days."""
    for limit, unit, size in ((90, "s", 1), (5400, "min", 60), (172_800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.2g} {unit}" if seconds / size < 10 else f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.2g} days"


def format_bytes(count: float) -> str:
    """Decimal units, two digits."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if count >= 10 or unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def format_flops(flops: float) -> str:
    """Peta- or teraFLOP."""
    return f"{flops / 1e15:,.3g} PFLOP" if flops >= 1e15 else f"{flops / 1e12:,.3g} TFLOP"
