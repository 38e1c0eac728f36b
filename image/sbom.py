"""What is in the image: a list of packages for people, and the same as CycloneDX for programs."""

from __future__ import annotations

import json
import re
import tarfile
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .base import SUITE
from .step import digest


@dataclass(frozen=True, order=True)
class Part:
    """One package: deb or pypi, its name, version, architecture."""

    kind: str
    name: str
    version: str
    arch: str = ""

    @property
    def purl(self) -> str:
        """Its address as a package URL."""
        if self.kind == "deb":
            version = self.version.replace("+", "%2B").replace("~", "~").replace(":", "%3A")
            return f"pkg:deb/debian/{self.name}@{version}?arch={self.arch}&distro={SUITE}"
        return f"pkg:pypi/{self.name.lower().replace('_', '-')}@{self.version}"


def debian(base: Path, packages: Iterable[Path]) -> list[Part]:
    """The packages of the base, and those that were only unpacked."""
    with tarfile.open(base) as tar:
        file = tar.extractfile("./var/lib/dpkg/status")
        text = file.read().decode() if file else ""
    found = []
    for block in text.split("\n\n"):
        fields = dict(re.findall(r"^(Package|Version|Architecture|Status): (.*)$", block, re.M))
        if fields.get("Status", "").endswith(" installed"):
            found.append(Part("deb", fields["Package"], fields["Version"], fields["Architecture"]))
    for path in packages:
        name, version, arch = path.stem.split("_")
        found.append(Part("deb", name, version.replace("%3a", ":"), arch))
    return sorted(set(found))


def python(wheels: Iterable[Path], version: str) -> list[Part]:
    """The wheels, and the agent itself."""
    found = [Part("pypi", *path.name.split("-")[:2]) for path in wheels]
    return sorted([*found, Part("pypi", "ridethrough", version)])


def package_list(parts: Iterable[Part]) -> str:
    """A line each."""
    return "".join(f"{p.kind}\t{p.name}\t{p.version}\t{p.arch}\n" for p in parts)


def cyclonedx(parts: Iterable[Part], version: str, epoch: str) -> str:
    """The bill of materials, CycloneDX 1.5 in JSON; the same for the same parts."""
    parts = list(parts)
    serial = uuid.UUID(digest(*(p.purl for p in parts), version)[:32])
    found = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {
            "timestamp": epoch,
            "component": {"type": "firmware", "name": "ridethrough-image", "version": version},
        },
        "components": [
            {"type": "library", "bom-ref": p.purl, "name": p.name, "version": p.version, "purl": p.purl}
            for p in parts
        ],
    }
    return json.dumps(found, indent=1) + "\n"
