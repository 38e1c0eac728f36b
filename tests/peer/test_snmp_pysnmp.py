"""SNMP version 3 against pysnmp, whose user-based security shares no code with ours: the independent oracle."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.peer.test_snmp_v3 import CRYPT, SIGN, SYS_NAME, agent
from tests.pysnmp_client import AUTHS, PRIVS, Manager
from tests.snmp_kit import UPS, Net

pytestmark = pytest.mark.peer


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Net(tmp_path_factory.mktemp("net") / "net").folder


@contextmanager
def manager(port: int, auth: str, priv: str, *, sign: str = SIGN, crypt: str = CRYPT) -> Iterator[Manager]:
    made = Manager(port, "").with_user("ops", auth, sign, priv, crypt)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("priv", PRIVS)
@pytest.mark.parametrize("auth", AUTHS)
def test_every_pair_of_ways_is_understood_by_pysnmp(net: Path, tmp_path: Path, auth: str, priv: str) -> None:
    with agent(net, tmp_path, auth, priv) as port, manager(port, auth, priv) as pysnmp:
        assert pysnmp.get(SYS_NAME) == ("", 0, [(SYS_NAME, "OctetString", "rack-3")])


def test_pysnmp_walks_and_reads_in_bulk_and_cannot_set(net: Path, tmp_path: Path) -> None:
    with agent(net, tmp_path, "sha256", "aes128") as port, manager(port, "sha256", "aes128") as pysnmp:
        walked = pysnmp.walk(UPS)
        assert len(walked) > 40
        error, _, bindings = pysnmp.getbulk(0, 20, UPS)
        assert not error and [name for name, _, _ in bindings] == [name for name, _, _ in walked[:20]]
        assert pysnmp.set(f"{UPS}.1.5.0", "mine")[:2] == ("noAccess", 1)


@pytest.mark.parametrize(("sign", "crypt"), [("another-phrase", CRYPT), (SIGN, "another-phrase")])
def test_pysnmp_with_another_key_gets_nothing(net: Path, tmp_path: Path, sign: str, crypt: str) -> None:
    with (
        agent(net, tmp_path, "sha256", "aes128") as port,
        manager(port, "sha256", "aes128", sign=sign, crypt=crypt) as pysnmp,
        pytest.raises(TimeoutError),
    ):
        pysnmp.get(SYS_NAME)
