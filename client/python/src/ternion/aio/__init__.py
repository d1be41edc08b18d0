"""The client for asyncio.

    import ternion.aio

    async with ternion.aio.connect(endpoint="http://127.0.0.1:50051") as client:
        async for text in client.chat(messages=[ternion.user("What is BitNet?")]).texts():
            print(text, end="", flush=True)

Messages, errors and arguments are those of ``ternion``.
"""

from ternion.aio._client import Client, connect
from ternion.aio._events import Events
from ternion.aio._session import Session

__all__ = ["Client", "Events", "Session", "connect"]
