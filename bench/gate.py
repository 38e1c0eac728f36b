"""One measured figure against its limit, printed the same way everywhere."""

from __future__ import annotations


def gate(what: str, value: float, limit: float, unit: str) -> bool:
    """Print the figure; True if it is within its limit."""
    good = value <= limit
    print(f"   {what}: {value:.3g} {unit} (limit {limit:.3g}) {'ok' if good else 'MISSED'}", flush=True)
    return good


def p95(values: list[float]) -> float:
    """The 95th percentile, the nearest rank."""
    ranked = sorted(values)
    return ranked[max(0, -(-len(ranked) * 95 // 100) - 1)]
