"""Passes a shutdown on to further listeners, in the classic form, while our own command runs."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from .codec import SHUTDOWN, encode
from .journal import Journal


def tell(addresses: Sequence[tuple[str, int]], journal: Journal) -> None:
    """Tell each of them, all at the same time and without waiting; one line in the log for each."""
    from .send import send_tcp  # not before it is needed: memory

    def one(host: str, port: int) -> None:
        outcome = send_tcp(host, port, encode(SHUTDOWN))[1]
        journal.line(f"{host}:{port}", SHUTDOWN, f"relayed: {outcome}")

    for host, port in addresses:
        threading.Thread(target=one, args=(host, port), daemon=True).start()
