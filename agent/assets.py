"""The files that the web page never changes (style, script, drawing): compressed once, kept by browsers. Pure."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

YEAR_S = 365 * 86400
_KINDS = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}

Answer = tuple[int, dict[str, str], bytes]  # status, headers, body


class Files:
    """All files of a folder, under one version."""

    def __init__(self, folder: Path) -> None:
        self._files: dict[str, tuple[str, bytes, bytes]] = {}
        digest = hashlib.sha256()
        for path in sorted(folder.iterdir()):
            if kind := _KINDS.get(path.suffix):
                data = path.read_bytes()
                digest.update(data)
                self._files[path.name] = (kind, data, gzip.compress(data, 9, mtime=0))
        self.version = digest.hexdigest()[:12]

    def answer(self, name: str, *, version: str, has: str, encodings: str) -> Answer | None:
        """The answer to a request for `name`; None: there is no such file. `version` as in the address, `has` and
        `encodings` as in If-None-Match and Accept-Encoding."""
        if name not in self._files:
            return None
        kind, data, packed = self._files[name]
        etag = f'"{self.version}"'
        headers = {"ETag": etag, "Vary": "Accept-Encoding", "Content-Type": kind}
        same = version == self.version  # another version is another address
        headers["Cache-Control"] = f"public, max-age={YEAR_S}, immutable" if same else "no-cache"
        if etag in has:
            return 304, headers, b""
        if "gzip" in encodings:
            headers["Content-Encoding"], data = "gzip", packed
        return 200, headers, data
