"""A real `ternion-server` on a free port."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

import ternion

JAPAN = "What is the capital of Japan?"
TOKYO = "The capital of Japan is Tokyo."

LONG: ternion.GenerateArguments = {
    "text": "Once upon a time",
    "temperature": 0,
    "max_tokens": 1000,
    "ignore_eos": True,
}

# Seconds in which nothing that is LONG ends, and anything begins.
HASTE = 0.5

START_TIMEOUT = 60.0

# How long anything may take that takes a server a moment: others may want the machine, too.
MOMENT = 60.0


class Server:
    def __init__(
        self, program: str, *arguments: str, listen: str = "127.0.0.1:0", slow: bool = True
    ) -> None:
        self._process = subprocess.Popen(
            [
                *[program, "serve", "--listen", listen, "--operations-listen", "off"],
                # Long requests are to last, however fast the machine: the demo repeats itself,
                # and a slow kernel is one that is slow everywhere.
                *["--max-draft-tokens", "0", *(_on_a_slow_kernel() if slow else []), *arguments],
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # It takes all that begin so for its settings.
            env={
                name: value for name, value in os.environ.items() if not name.startswith("TERNION_")
            },
        )
        tls = any(argument.startswith("--tls-certificate") for argument in arguments)
        self._scheme = "https" if tls else "http"
        self._log: list[str] = []
        self._reading = threading.Thread(target=self._keep_log)
        self.endpoint = ""

    def __enter__(self) -> Server:
        self._reading.start()
        try:
            self.endpoint = self._announced()
        except BaseException:
            self.close()
            raise
        return self

    def _announced(self) -> str:
        assert self._process.stdout is not None
        watchdog = threading.Timer(START_TIMEOUT, self._process.kill)
        watchdog.start()
        try:
            for line in self._process.stdout:
                name, _, address = line.partition(" ")
                if name == "serving":
                    return f"{self._scheme}://{address.split()[0]}"
        finally:
            watchdog.cancel()
        self.kill()
        self._reading.join()
        raise AssertionError("the server told no address\n" + "".join(self._log))

    def _keep_log(self) -> None:
        assert self._process.stderr is not None
        self._log.extend(self._process.stderr)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Alive, but neither reading nor writing."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def wait(self) -> int:
        return self._process.wait(START_TIMEOUT)

    def close(self) -> None:
        self.kill()
        self._reading.join()
        for pipe in (self._process.stdout, self._process.stderr):
            assert pipe is not None
            pipe.close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
        log = "".join(self._log)
        assert "panicked at" not in log, log


def _on_a_slow_kernel() -> list[str]:
    plugins = os.environ.get("TERNION_SLOW_KERNEL")
    return ["--plugin-dir", plugins] if plugins else []


def become_true(condition: Callable[[], bool]) -> bool:
    """Ask again and again, until it is, or something is wrong."""
    deadline = time.monotonic() + MOMENT
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def idle(client: ternion.Client) -> bool:
    """Whether no request is alive any more, and all its pages are back."""

    def nothing_held() -> bool:
        load = client.load()
        return load.running + load.waiting == 0 and load.kv_pages_free == load.kv_pages

    return become_true(nothing_held)


@contextmanager
def cut_short(client: ternion.Client) -> Iterator[None]:
    """Requests of a thousand tokens that begin here are ended long before they are through.

    A server may well run to the end without a reader, so that being idle is not
    enough.
    """
    before = client.load().steps
    yield
    assert idle(client)
    assert client.load().steps - before < 900


def ending(last: ternion.Event | ternion.Failed) -> str:
    """The reason's name. A slow machine may not accept a request before its time is over."""
    if isinstance(last, ternion.Failed) and isinstance(last.error, ternion.DeadlineExceeded):
        return "FINISH_REASON_DEADLINE_EXCEEDED"
    assert isinstance(last, ternion.Finished)
    return ternion.FinishReason.Name(last.reason)
