"""Goes through the scenarios with the Python client, and prints what it saw.

See ../README.md. With --aio the asyncio client is used, which must see the same.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ternion
import ternion.aio
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message
from ternion.v1.inference_pb2 import (
    CountTokensRequest,
    DetokenizeRequest,
    DetokenizeResponse,
    TokenizeRequest,
    TokenizeResponse,
)
from ternion.v1.request_pb2 import RequestServiceCancelResponse, RequestServiceListResponse

Json = dict[str, Any]

KINDS: dict[type[ternion.TernionError], str] = {
    ternion.InvalidArgument: "invalid_argument",
    ternion.NotFound: "not_found",
    ternion.Denied: "denied",
    ternion.ResourceExhausted: "resource_exhausted",
    ternion.Unavailable: "unavailable",
    ternion.DeadlineExceeded: "deadline_exceeded",
    ternion.Cancelled: "cancelled",
    ternion.Internal: "internal",
    ternion.TransportError: "transport",
}

# A scenario never takes that long; a runner that waits for ever tells nothing.
TIMEOUT = 60.0


def main() -> None:
    arguments = parsed()
    keys = json.loads(arguments.keys.read_text())
    scenarios = json.loads(arguments.scenarios.read_text())
    if arguments.aio:
        asyncio.run(run_aio(arguments, keys, scenarios))
    else:
        run(arguments, keys, scenarios)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--ca", type=Path)
    parser.add_argument("--keys", type=Path, required=True)
    parser.add_argument("--scenarios", type=Path, required=True)
    parser.add_argument("--aio", action="store_true")
    return parser.parse_args()


def run(arguments: argparse.Namespace, keys: Json, scenarios: list[Json]) -> None:
    for scenario in scenarios:
        with ternion.connect(**connection(arguments, keys, scenario)) as client:
            report(scenario, see(client, scenario))


async def run_aio(arguments: argparse.Namespace, keys: Json, scenarios: list[Json]) -> None:
    for scenario in scenarios:
        async with ternion.aio.connect(**connection(arguments, keys, scenario)) as client:
            report(scenario, await see_aio(client, scenario))


def connection(arguments: argparse.Namespace, keys: Json, scenario: Json) -> Json:
    return {
        "endpoint": arguments.endpoint,
        "ca": arguments.ca,
        "api_key": keys[scenario["as"]] if "as" in scenario else None,
        "timeout": TIMEOUT,
    }


def report(scenario: Json, seen: Any) -> None:
    print(json.dumps({"scenario": scenario["name"], "seen": seen}), flush=True)


def see(client: ternion.Client, scenario: Json) -> Any:
    match scenario["call"]:
        case "generate" | "chat" as call:
            seen = Seen(scenario.get("cancel_after_tokens"))
            try:
                for event in getattr(client, call)(**generation(scenario)):
                    if not seen.goes_on(event):
                        break
            except ternion.TernionError as error:
                seen.failed(error)
            return seen.events
        case "session":
            try:
                return session(client, scenario["frames"])
            except ternion.TernionError as error:
                return shown_error(error)
        case call:
            try:
                return message(call, getattr(client, call)(**plain(scenario)))
            except ternion.TernionError as error:
                return shown_error(error)


async def see_aio(client: ternion.aio.Client, scenario: Json) -> Any:
    match scenario["call"]:
        case "generate" | "chat" as call:
            seen = Seen(scenario.get("cancel_after_tokens"))
            try:
                async for event in getattr(client, call)(**generation(scenario)):
                    if not seen.goes_on(event):
                        break
            except ternion.TernionError as error:
                seen.failed(error)
            return seen.events
        case "session":
            try:
                return await session_aio(client, scenario["frames"])
            except ternion.TernionError as error:
                return shown_error(error)
        case call:
            try:
                return message(call, await getattr(client, call)(**plain(scenario)))
            except ternion.TernionError as error:
                return shown_error(error)


def generation(scenario: Json) -> Json:
    """Arguments of `generate` and `chat`."""
    if scenario["call"] == "chat":
        return {"messages": scenario["messages"], **scenario.get("sampling", {})}
    return {**request(scenario), **timeout(scenario)}


def request(holder: Json) -> Json:
    return {"request": ParseDict(holder["request"], ternion.GenerateRequest())}


def timeout(holder: Json) -> Json:
    return {"timeout": holder["timeout_ms"] / 1000} if "timeout_ms" in holder else {}


def plain(scenario: Json) -> Json:
    """Arguments of a call with one answer."""
    match scenario["call"]:
        case "tokenize":
            return fields(ParseDict(scenario["request"], TokenizeRequest()))
        case "detokenize":
            return fields(ParseDict(scenario["request"], DetokenizeRequest()))
        case "count_tokens":
            return fields(ParseDict(scenario["request"], CountTokensRequest()))
        case "model":
            return {"name": scenario["model"]}
        case "cancel_request":
            return {"request_id": scenario["request_id"]}
        case "models" | "list_requests":
            return {}
        case call:
            raise SystemExit(f"no such call: {call}")


def fields(message: Message) -> Json:
    """A message's fields as keyword arguments."""
    arguments: Json = {field.name: value for field, value in message.ListFields()}
    if "chat" in arguments:
        arguments["messages"] = arguments.pop("chat").messages
    if isinstance(message, CountTokensRequest) and "token_ids" in arguments:
        arguments["token_ids"] = arguments["token_ids"].ids
    return arguments


def message(call: str, value: Any) -> Any:
    """What a call gave, as the message that the server sent."""
    match call:
        case "tokenize":
            return shown(TokenizeResponse(token_ids=value))
        case "detokenize":
            return shown(DetokenizeResponse(text=value))
        case "models":
            return [shown(model) for model in value]
        case "list_requests":
            return shown(RequestServiceListResponse(requests=value))
        case "cancel_request":
            return shown(RequestServiceCancelResponse(cancelled=value))
        case _:
            return shown(value)


def shown(message: Message) -> Json:
    return MessageToDict(message, preserving_proto_field_name=True)


def shown_error(error: ternion.TernionError) -> Json:
    seen: Json = {"kind": KINDS[type(error)], "code": error.code}
    if isinstance(error, ternion.InvalidArgument) and error.fields:
        seen["fields"] = list(error.fields)
    if error.retry_after is not None:
        seen["retry_after"] = True
    return {"error": seen}


class Seen:
    """The events of one request, in the form in which runs are compared."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.events: list[Json] = []
        self.tokens = 0
        self._stop_after = stop_after

    def goes_on(self, event: ternion.Event | ternion.Failed) -> bool:
        """Keep the event, and say whether to read on."""
        if isinstance(event, ternion.Failed):
            self.failed(event.error)
            return True
        if isinstance(event, ternion.Delta):
            self._append(event)
            self.tokens += len(event.token_ids)
            if self._stop_after is not None and self.tokens >= self._stop_after:
                self.events.append({"stopped": {}})
                return False
            return True
        fields = shown(event)
        fields.pop("timings", None)
        if isinstance(event, ternion.Started):
            fields = {name: fields[name] for name in ("model", "kernel")}
        self.events.append({type(event).__name__.lower(): fields})
        return True

    def failed(self, error: ternion.TernionError) -> None:
        self.events.append(shown_error(error))

    def _append(self, delta: ternion.Delta) -> None:
        fields = shown(delta)
        last = self.events[-1].get("delta") if self.events else None
        if last is None:
            self.events.append({"delta": fields})
            return
        for name, value in fields.items():
            last[name] = last[name] + value if name in last else value


class Steps:
    """What a session does next, decided alike for both clients."""

    def __init__(self, frames: Iterable[Json]) -> None:
        frames = list(frames)
        self.starts = [frame for frame in frames if "start" in frame]
        self.seen = {frame["start"]: Seen() for frame in self.starts}
        self._cancels = {f["cancel"]: f["after_tokens"] for f in frames if "cancel" in f}

    def sent(self) -> bool:
        return not self._cancels

    def due(self, session_event: ternion.SessionEvent) -> str | None:
        """Keep an event, and return the id to cancel now."""
        request_id, event = session_event
        seen = self.seen[request_id]
        seen.goes_on(event)
        ended = isinstance(event, ternion.Finished | ternion.Failed)
        after = self._cancels.get(request_id)
        if after is None or (seen.tokens < after and not ended):
            return None
        del self._cancels[request_id]
        return request_id

    def shown(self) -> Json:
        return {request_id: seen.events for request_id, seen in self.seen.items()}


def session(client: ternion.Client, frames: list[Json]) -> Json:
    steps = Steps(frames)
    with client.session() as session:
        for frame in steps.starts:
            session.start(frame["start"], **request(frame), **timeout(frame))
        if steps.sent():
            session.half_close()
        for event in session:
            request_id = steps.due(event)
            if request_id is not None:
                session.cancel(request_id)
                if steps.sent():
                    session.half_close()
    return steps.shown()


async def session_aio(client: ternion.aio.Client, frames: list[Json]) -> Json:
    steps = Steps(frames)
    async with client.session() as session:
        for frame in steps.starts:
            await session.start(frame["start"], **request(frame), **timeout(frame))
        if steps.sent():
            await session.half_close()
        async for event in session:
            request_id = steps.due(event)
            if request_id is not None:
                await session.cancel(request_id)
                if steps.sent():
                    await session.half_close()
    return steps.shown()


if __name__ == "__main__":
    main()
