"""A farm of servers for bench/fanout: every address of a network listens; some take the line, some only hang.

`python -m bench.farm LIVE_PORT HANGING_PORT [TLS_PORT KEY_PEM SENDER_PEM]`: prints `ready`, then for every line it
got `ADDRESS WALL_SECOND`. On TLS_PORT it is a server for secure RCCMD with that key, which trusts only that sender.
"""

from __future__ import annotations

import asyncio
import resource
import ssl
import sys
import time

LINE_LIMIT = 2048
NO_CHECK_TIME, PARTIAL_CHAIN = 0x200000, 0x80000  # X509_V_FLAG_...


def told(writer: asyncio.StreamWriter) -> None:
    """This address was told."""
    print(f"{writer.get_extra_info('sockname')[0]} {time.time():.6f}", flush=True)


async def live(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take a line and close: accepted."""
    if await reader.read(LINE_LIMIT):
        told(writer)
    writer.close()


async def secure(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take a request and answer it; only a SHUTDOWN counts as told."""
    try:
        line = await reader.readline()
        if line.startswith(b"RT1 SHUTDOWN "):
            told(writer)
        facts = (
            b" version=0.1.0 selftest=ok selftest_age_s=1 need=1 votes=0" if line.startswith(b"RT1 NOOP ") else b""
        )
        writer.write(b"RT1 accepted" + facts + b"\n")
        await reader.read(1)
        writer.close()
    except OSError:
        writer.transport.abort()


async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Accept, and then nothing."""
    await asyncio.sleep(600)
    writer.close()


def context(key: str, sender: str) -> ssl.SSLContext:
    """As the listener has it: pinned senders, no dates."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.load_cert_chain(key)
    made.verify_mode = ssl.CERT_REQUIRED
    made.verify_flags |= ssl.VerifyFlags(NO_CHECK_TIME | PARTIAL_CHAIN)
    made.load_verify_locations(sender)
    return made


async def main(live_port: int, hanging_port: int, *tls: str) -> None:
    everywhere = "0.0.0.0"  # noqa: S104  (a namespace of its own)
    await asyncio.start_server(live, everywhere, live_port, backlog=4096)
    await asyncio.start_server(hang, everywhere, hanging_port, backlog=4096)
    if tls:
        await asyncio.start_server(secure, everywhere, int(tls[0]), backlog=4096, ssl=context(tls[1], tls[2]))
    print("ready", flush=True)
    await asyncio.sleep(3600)


if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:6]))
