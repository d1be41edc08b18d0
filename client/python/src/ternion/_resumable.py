"""What of a session outlives its connection."""

from __future__ import annotations

from ternion._request import resume_request, start_frame
from ternion.v1.inference_pb2 import GenerateRequest, SessionRequest, SessionResponse


class Resumable:
    """Resumable requests that have not ended, and the last frame of each."""

    def __init__(self) -> None:
        self._last_seq: dict[str, int | None] = {}

    def add(self, request_id: str, request: GenerateRequest) -> None:
        """Note a request that is about to be sent."""
        if request.resumable:
            self._last_seq[request_id] = None

    def remove(self, request_id: str) -> None:
        """Forget a request: it was not sent, or has ended."""
        self._last_seq.pop(request_id, None)

    def note(self, response: SessionResponse) -> None:
        """Note how far a request has come."""
        frame = response.WhichOneof("frame")
        if frame == "failed" or (frame == "finished" and not response.finished.remaining):
            self.remove(response.request_id)
        elif response.request_id in self._last_seq:
            self._last_seq[response.request_id] = response.seq

    def frames(self) -> list[SessionRequest]:
        """Build what asks for the rest of each."""
        return [
            start_frame(request_id, resume_request(request_id, last_seq), None)
            for request_id, last_seq in self._last_seq.items()
        ]
