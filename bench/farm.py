"""A farm of servers for bench/fanout: every address of a network listens; some take the line, some only hang.

`python -m bench.farm LIVE_PORT HANGING_PORT`: prints `ready`, then for every line it got `ADDRESS WALL_SECOND`.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import time

LINE_LIMIT = 2048


async def live(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take a line and close: accepted."""
    data = await reader.read(LINE_LIMIT)
    if data:
        print(f"{writer.get_extra_info('sockname')[0]} {time.time():.6f}", flush=True)
    writer.close()


async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Accept, and then nothing."""
    await asyncio.sleep(600)
    writer.close()


async def main(live_port: int, hanging_port: int) -> None:
    await asyncio.start_server(live, "0.0.0.0", live_port, backlog=4096)  # noqa: S104  (a namespace of its own)
    await asyncio.start_server(hang, "0.0.0.0", hanging_port, backlog=4096)  # noqa: S104
    print("ready", flush=True)
    await asyncio.sleep(3600)


if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
