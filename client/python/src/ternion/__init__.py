"""Client for a ternion server: text generation by BitNet models over gRPC.

    import ternion

    with ternion.connect(endpoint="http://127.0.0.1:50051") as client:
        for text in client.chat(messages=[ternion.user("What is BitNet?")]).texts():
            print(text, end="", flush=True)

``ternion.aio`` is the same for asyncio. Three things to know:

- Events are the messages of the protocol: ``Queued``, again while the request
  waits and has moved, ``Started``, any number of ``Delta``, ``Finished``.
  Leaving the loop over them cancels the request.
- Errors are sorted by what a caller does next, not by status code: change the
  request, come back later, or give up. All are a ``TernionError``.
- Arguments that are absent or ``None`` take the model's or the server's default.
"""

from ternion import errors
from ternion._client import Client, connect
from ternion._event import Event, Failed, SessionEvent
from ternion._events import Events
from ternion._request import (
    GenerateArguments,
    RequestArguments,
    assistant,
    system,
    user,
)
from ternion._session import Session
from ternion._version import __version__
from ternion.errors import (
    Cancelled,
    DeadlineExceeded,
    Denied,
    Internal,
    InvalidArgument,
    NotFound,
    Resource,
    ResourceExhausted,
    TernionError,
    TransportError,
    Unavailable,
    Violation,
)
from ternion.v1.admin_pb2 import DrainResponse, Kernel, KernelState, LoadResponse
from ternion.v1.inference_pb2 import (
    ChatMessage,
    CountTokensResponse,
    Delta,
    Finished,
    FinishReason,
    GenerateRequest,
    Queued,
    Started,
    Timings,
    TokenLogprob,
    TopLogprob,
    Usage,
)
from ternion.v1.model_pb2 import ModelInfo
from ternion.v1.request_pb2 import LiveRequest

__all__ = [
    "Cancelled",
    "ChatMessage",
    "Client",
    "CountTokensResponse",
    "DeadlineExceeded",
    "Delta",
    "Denied",
    "DrainResponse",
    "Event",
    "Events",
    "Failed",
    "FinishReason",
    "Finished",
    "GenerateArguments",
    "GenerateRequest",
    "Internal",
    "InvalidArgument",
    "Kernel",
    "KernelState",
    "LiveRequest",
    "LoadResponse",
    "ModelInfo",
    "NotFound",
    "Queued",
    "RequestArguments",
    "Resource",
    "ResourceExhausted",
    "Session",
    "SessionEvent",
    "Started",
    "TernionError",
    "Timings",
    "TokenLogprob",
    "TopLogprob",
    "TransportError",
    "Unavailable",
    "Usage",
    "Violation",
    "__version__",
    "assistant",
    "connect",
    "errors",
    "system",
    "user",
]
