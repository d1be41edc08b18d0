"""The client for asyncio, against a real server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from server import HASTE, JAPAN, LONG, MOMENT, TOKYO, Server, become_true, cut_short, ending, idle

import ternion
import ternion.aio


@pytest.fixture
async def aio(server: Server) -> AsyncIterator[ternion.aio.Client]:
    async with ternion.aio.connect(endpoint=server.endpoint) as client:
        yield client


async def text_of(events: ternion.aio.Events) -> str:
    return "".join([event.text async for event in events if isinstance(event, ternion.Delta)])


async def listed(events: AsyncIterator[object]) -> list[object]:
    return [event async for event in events]


async def begun(client: ternion.aio.Client) -> ternion.aio.Events:
    """A long request whose tokens have begun to come."""
    events = client.generate(**LONG)
    async for event in events:
        if isinstance(event, ternion.Delta):
            return events
    raise AssertionError("it ended")


async def off_the_loop(condition: Callable[[], bool]) -> bool:
    return await asyncio.to_thread(condition)


async def test_samples_are_told_apart(aio: ternion.aio.Client) -> None:
    events = aio.generate(text="Once", n=3, seed=7, temperature=1.5, max_tokens=12)
    told = [event async for event in events]
    texts = ["", "", ""]
    for event in told:
        if isinstance(event, ternion.Delta):
            texts[event.index] += event.text
    assert len(set(texts)) == 3
    endings = [event for event in told if isinstance(event, ternion.Finished)]
    assert [ending.remaining for ending in endings] == [2, 1, 0]
    assert events.finished is endings[-1]
    async with aio.session() as session:
        await session.start("s", text="Once", n=3, seed=7, temperature=1.5, max_tokens=12)
        await session.half_close()
        again = ["", "", ""]
        async for _, of_session in session:
            if isinstance(of_session, ternion.Delta):
                again[of_session.index] += of_session.text
    assert again == texts


async def test_a_request_tells_its_story(aio: ternion.aio.Client) -> None:
    events = aio.chat(messages=[ternion.user(JAPAN)], temperature=0)
    told = await listed(events)
    kinds = [type(event) for event in told]
    deltas = kinds.count(ternion.Delta)
    assert kinds == [
        ternion.Queued,
        ternion.Started,
        *[ternion.Delta] * deltas,
        ternion.Finished,
    ]
    assert "".join(event.text for event in told if isinstance(event, ternion.Delta)) == TOKYO
    assert events.finished is told[-1]
    assert await listed(events) == []


async def test_text_alone(aio: ternion.aio.Client) -> None:
    pieces = [
        text
        async for text in aio.chat(
            messages=[{"role": "user", "content": JAPAN}], temperature=0
        ).texts()
    ]
    assert "".join(pieces) == TOKYO
    assert all(pieces)


async def test_text_and_ids(aio: ternion.aio.Client) -> None:
    ids = await aio.tokenize(text="What is ternion?")
    assert ids == [54, 290, 276, 570, 30]
    assert await aio.detokenize(token_ids=ids) == "What is ternion?"
    assert (await aio.count_tokens(messages=[ternion.user(JAPAN)])).count == 17


async def test_what_is_served(aio: ternion.aio.Client) -> None:
    (model,) = await aio.models()
    assert await aio.model(model.name) == model
    with pytest.raises(ternion.NotFound):
        await aio.model("nobody")
    selected = ternion.KernelState.KERNEL_STATE_SELECTED
    assert [kernel.state for kernel in await aio.kernels()].count(selected) == 1


async def test_wrong_fields_are_told_by_name_when_read(aio: ternion.aio.Client) -> None:
    events = aio.generate(text="x", temperature=-1, top_p=0)
    with pytest.raises(ternion.InvalidArgument) as refused:
        await anext(events)
    assert refused.value.fields == ("sampling.temperature", "sampling.top_p")
    assert await listed(events) == []


async def test_leaving_the_loop_frees_the_request(
    aio: ternion.aio.Client, client: ternion.Client
) -> None:
    with cut_short(client):
        async for event in aio.generate(**LONG):
            if isinstance(event, ternion.Delta):
                break
        assert await off_the_loop(lambda: idle(client))


async def test_leaving_the_text_frees_the_request(
    aio: ternion.aio.Client, client: ternion.Client
) -> None:
    with cut_short(client):
        async for _ in aio.generate(**LONG).texts():
            break
        assert await off_the_loop(lambda: idle(client))


async def test_closing_frees_the_request_and_ends_the_events(
    aio: ternion.aio.Client, client: ternion.Client
) -> None:
    with cut_short(client):
        async with await begun(aio) as events:
            pass
    assert await listed(events) == []
    assert events.finished is None


async def test_cancelling_the_reader_frees_the_request(
    aio: ternion.aio.Client, client: ternion.Client
) -> None:
    with cut_short(client):
        events = await begun(aio)
        reading = asyncio.create_task(listed(events))
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
    assert await listed(events) == []


async def test_cancelling_a_plain_call_is_no_error_of_ours(aio: ternion.aio.Client) -> None:
    calling = asyncio.create_task(aio.models())
    await asyncio.sleep(0)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert await aio.models()


async def test_a_waiting_reader_is_told_that_another_task_closed(
    aio: ternion.aio.Client,
) -> None:
    session = aio.session()
    reading = asyncio.ensure_future(anext(session))
    # Nothing runs, so nothing comes.
    assert await asyncio.wait({reading}, timeout=0.05) == (set(), {reading})
    await session.aclose()
    with pytest.raises(ternion.Cancelled):
        await reading


async def test_closing_the_client_frees_all_that_it_runs(
    server: Server, client: ternion.Client
) -> None:
    with cut_short(client):
        async with ternion.aio.connect(endpoint=server.endpoint) as other:
            events = [await begun(other) for _ in range(3)]
            session = other.session()
            await session.start("a", **LONG)
            await anext(session)
    for reader in [*events, session]:
        with pytest.raises(ternion.Cancelled):
            await listed(reader)
    calls: list[Callable[[], Awaitable[object]]] = [
        other.models,
        lambda: anext(other.generate(text="x")),
        lambda: anext(other.session()),
    ]
    for call in calls:
        with pytest.raises(ternion.TransportError, match="the client is closed"):
            await call()


async def test_reading_slowly_loses_nothing(
    aio: ternion.aio.Client, client: ternion.Client
) -> None:
    events = aio.generate(text="Once", temperature=0, max_tokens=100, ignore_eos=True)
    await anext(events)
    # The loop stands still as well, so that all comes at once afterwards.
    steps = [client.load().steps]

    def stands_still() -> bool:
        time.sleep(0.05)
        steps.append(client.load().steps)
        return steps[-1] == steps[-2]

    assert become_true(stands_still)
    tokens = [
        token
        async for event in events
        if isinstance(event, ternion.Delta)
        for token in event.token_ids
    ]
    assert len(tokens) == 100


async def test_a_deadline_ends_a_request(aio: ternion.aio.Client, client: ternion.Client) -> None:
    with pytest.raises(ternion.DeadlineExceeded):
        await listed(aio.generate(**LONG, timeout=HASTE))
    assert await off_the_loop(lambda: idle(client))


async def test_tasks_share_a_client(aio: ternion.aio.Client) -> None:
    async def answer(prompt: str) -> str:
        return await text_of(aio.chat(messages=[ternion.user(prompt)], temperature=0))

    prompts = [f"What is {n} times 7?" for n in range(2, 10)]
    one_by_one = [await answer(prompt) for prompt in prompts]
    together = await asyncio.gather(*map(answer, prompts * 4))
    assert together == one_by_one * 4
    assert len(set(one_by_one)) > 1


async def test_no_task_is_left(server: Server) -> None:
    before = asyncio.all_tasks()
    async with ternion.aio.connect(endpoint=server.endpoint) as client:
        await client.models()
        events = await begun(client)
        session = client.session()
        await session.start("a", **LONG)
        await anext(session)
        dropped = await begun(client)
        del dropped
        await events.aclose()
        await session.aclose()
        deadline = asyncio.get_running_loop().time() + MOMENT
        while asyncio.all_tasks() != before:
            assert asyncio.get_running_loop().time() < deadline, asyncio.all_tasks()
            await asyncio.sleep(0.005)


class TestSession:
    async def test_requests_share_a_stream(self, aio: ternion.aio.Client) -> None:
        async with aio.session() as session:
            await session.start("good", messages=[ternion.user(JAPAN)], temperature=0)
            await session.start("bad", text="x", min_p=2)
            await session.start("cancelled", **LONG)
            await session.start("late", **LONG, timeout=HASTE)
            told: dict[str, list[ternion.Event | ternion.Failed]] = {}
            async for request_id, event in session:
                told.setdefault(request_id, []).append(event)
                if request_id == "cancelled" and isinstance(event, ternion.Started):
                    await session.cancel("cancelled")
                    await session.cancel("nobody")
                    await session.half_close()
        text = (event.text for event in told["good"] if isinstance(event, ternion.Delta))
        assert "".join(text) == TOKYO
        (failed,) = told["bad"]
        assert isinstance(failed, ternion.Failed)
        assert isinstance(failed.error, ternion.InvalidArgument)
        assert failed.error.fields == ("sampling.min_p",)
        reasons = {}
        for request_id in ("good", "cancelled", "late"):
            reasons[request_id] = ending(told[request_id][-1])
        assert reasons == {
            "good": "FINISH_REASON_STOP",
            "cancelled": "FINISH_REASON_CANCELLED",
            "late": "FINISH_REASON_DEADLINE_EXCEEDED",
        }

    async def test_tasks_may_start_while_one_reads(self, aio: ternion.aio.Client) -> None:
        names = {f"{n}" for n in range(60)}
        async with aio.session() as session:
            starting = asyncio.gather(
                *(session.start(name, text=name, temperature=0, max_tokens=2) for name in names)
            )
            ended = set[str]()
            async for request_id, event in session:
                if isinstance(event, ternion.Finished):
                    ended.add(request_id)
                if ended == names:
                    await session.half_close()
            await starting
        assert ended == names

    async def test_nothing_starts_after_the_half_close(self, aio: ternion.aio.Client) -> None:
        async with aio.session() as session:
            await session.half_close()
            await session.half_close()
            with pytest.raises(ternion.TransportError, match="the session is closed"):
                await session.start("a", text="x")
            assert await listed(session) == []

    async def test_dropping_it_frees_its_requests(
        self, aio: ternion.aio.Client, client: ternion.Client
    ) -> None:
        with cut_short(client):
            session = aio.session()
            await session.start("a", **LONG)
            await anext(session)
            del session
            assert await off_the_loop(lambda: idle(client))


class TestFailure:
    async def test_nobody_there(self) -> None:
        async with ternion.aio.connect(endpoint="http://127.0.0.1:1") as client:
            session = client.session()
            calls: list[Callable[[], Awaitable[object]]] = [
                client.models,
                lambda: anext(client.generate(text="x")),
                lambda: anext(session),
            ]
            for call in calls:
                with pytest.raises(ternion.TransportError, match="onnection refused"):
                    await call()
            with pytest.raises(ternion.TransportError, match="onnection refused"):
                await session.start("a", text="x")

    async def test_a_server_that_dies_is_not_asked_again(
        self, start: Callable[..., Server]
    ) -> None:
        server = start()
        async with ternion.aio.connect(endpoint=server.endpoint) as client:
            events = await begun(client)
            server.kill()
            start(listen=server.endpoint.removeprefix("http://"))
            with pytest.raises(ternion.TransportError):
                await listed(events)
            assert await client.models(), "it is there again"

    async def test_a_server_that_is_late_is_found(self, start: Callable[..., Server]) -> None:
        early = start()
        async with ternion.aio.connect(endpoint=early.endpoint, retries=20) as client:
            assert await client.models()
            early.kill()
            models = asyncio.create_task(client.models())
            answer = asyncio.create_task(
                text_of(client.chat(messages=[ternion.user(JAPAN)], temperature=0))
            )
            await asyncio.to_thread(start, listen=early.endpoint.removeprefix("http://"))
            assert await models
            assert await answer == TOKYO

    async def test_a_draining_server_says_so(self, start: Callable[..., Server]) -> None:
        server = start()
        async with ternion.aio.connect(endpoint=server.endpoint, retries=0) as client:
            events = await begun(client)
            assert (await client.drain()).in_flight == 1
            with pytest.raises(ternion.Unavailable) as refused:
                await anext(client.generate(text="x"))
            assert refused.value.retry_after is not None
            await events.aclose()
            assert await asyncio.to_thread(server.wait) == 0
