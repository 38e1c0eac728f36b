"""For all tests: no example of hypothesis is timed, for a machine may be busy; and an outage's many open files."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture
def many_files() -> Iterator[None]:
    """What is opened in the test gets a number above 1023, as in an outage with a thousand servers."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096 if hard == resource.RLIM_INFINITY else min(hard, 4096), hard))
    held = [os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)]
    try:
        while held[-1] < 1023:
            held.append(os.dup(held[0]))
        yield
    finally:
        for one in held:
            os.close(one)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
