"""Where the ways to tell a server find what they need: the core's folder, commands, secrets, and who is enrolled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from .config import Server
from .reach import Address, Job


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """All that an attempt needs besides its server."""

    folder: Path = Path("/nonexistent")  # the core's own
    commands_dir: Path = Path("/etc/ridethrough/commands.d")
    secret: Callable[[str], str | None] = field(default=lambda label: None)
    pin: Callable[[str], str] = field(default=lambda name: "")  # SHA-256 of a server's certificate, by its name
    former: Callable[[str], tuple[str, ...]] = field(default=lambda name: ())  # of those before that are still good
    settle: Callable[[str, str], None] = field(default=lambda name, sha256: None)  # this one was seen at work

    def job(
        self,
        server: Server,
        address: Address | None,
        outage: str,
        connect_s: float,
        heard: Callable[[], None] | None = None,
    ) -> Job:
        """One attempt."""
        return Job(
            server=server,
            address=address,
            outage=outage,
            connect_s=connect_s,
            folder=self.folder,
            commands_dir=self.commands_dir,
            secret=self.secret,
            pin=self.pin(server.name),
            former=self.former(server.name),
            settle=lambda sha256: self.settle(server.name, sha256),
            heard=heard or (lambda: None),
        )

    def trust(self, server: Server, way: ModuleType | None) -> str:
        """secure | classic | not-enrolled, or '' where the way makes no such difference."""
        judge: Callable[[Server, str], str] | None = getattr(way, "trust", None)
        return judge(server, self.pin(server.name)) if judge is not None else ""
