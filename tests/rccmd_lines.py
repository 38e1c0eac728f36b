"""What the listener writes into its log, for tests of its parts."""

from __future__ import annotations

import sys
import unittest
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from agent.rccmd import journal  # noqa: E402


def lines(case: unittest.TestCase) -> list[str]:
    """The lines from now to the end of `case`, which go nowhere else."""
    found: list[str] = []
    patch = mock.patch.object(journal.output, "write", found.append)
    patch.start()
    case.addCleanup(patch.stop)
    return found
