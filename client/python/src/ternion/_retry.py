"""Trying a call again that the server has not begun to answer."""

from __future__ import annotations

import random
import time

from ternion.errors import TernionError, TransportError, Unavailable

# Of pauses that double; short enough that a server which is back is found soon.
_FIRST_PAUSE = 0.2

# Who is asked to wait longer than this has something better to do meanwhile,
# and is told instead.
_LONGEST_PAUSE = 10.0


class Attempts:
    """The tries of one call: the time left for them, and whether there is another."""

    def __init__(self, *, timeout: float | None, retries: int) -> None:
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._retries = retries
        self._tried_again = 0

    def time_left(self) -> float | None:
        """Seconds, or ``None`` without a deadline."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def pause(self, error: TernionError) -> float | None:
        """Seconds to wait before the next try; ``None`` if there is none."""
        if self._tried_again == self._retries:
            return None
        pause = self._wanted(error)
        time_left = self.time_left()
        if pause is None or pause > _LONGEST_PAUSE:
            return None
        # Waiting for nothing would replace the reason by a deadline.
        if time_left is not None and pause >= time_left:
            return None
        self._tried_again += 1
        return pause

    def begin_anew(self) -> None:
        """Count from zero again: it worked."""
        self._tried_again = 0

    def _wanted(self, error: TernionError) -> float | None:
        # Not when a queue is full or a quota used up: that adds load where there
        # is too much, so it is for the caller to decide.
        if not isinstance(error, Unavailable | TransportError):
            return None
        # A little more than asked, so that those refused together don't come
        # back together.
        if error.retry_after is not None:
            return error.retry_after * random.uniform(1.0, 1.1)
        pause = _FIRST_PAUSE * 2.0**self._tried_again * random.uniform(0.5, 1.5)
        return min(pause, _LONGEST_PAUSE)
