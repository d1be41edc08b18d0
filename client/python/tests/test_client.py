"""The client for threads, against a real server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from server import HASTE, JAPAN, LONG, MOMENT, TOKYO, Server, become_true, cut_short, ending, idle

import ternion
from ternion._retry import Attempts


def text_of(events: ternion.Events) -> str:
    return "".join(event.text for event in events if isinstance(event, ternion.Delta))


def begun(client: ternion.Client) -> ternion.Events:
    """A long request whose tokens have begun to come."""
    events = client.generate(**LONG)
    for event in events:
        if isinstance(event, ternion.Delta):
            return events
    raise AssertionError("it ended")


def test_a_request_tells_its_story(client: ternion.Client) -> None:
    events = client.chat(messages=[ternion.user(JAPAN)], temperature=0)
    told = list(events)
    kinds = [type(event) for event in told]
    deltas = kinds.count(ternion.Delta)
    assert kinds == [
        ternion.Queued,
        ternion.Started,
        *[ternion.Delta] * deltas,
        ternion.Finished,
    ]
    assert "".join(event.text for event in told if isinstance(event, ternion.Delta)) == TOKYO
    assert told[-1] is events.finished
    assert events.finished.reason == ternion.FinishReason.FINISH_REASON_STOP
    assert events.finished.usage.prompt_tokens == 17
    assert list(events) == []


def answers_of(told: list[ternion.Event], count: int) -> list[list[int]]:
    deltas = [event for event in told if isinstance(event, ternion.Delta)]
    assert all(delta.index < count for delta in deltas)
    return [
        [token for delta in deltas if delta.index == index for token in delta.token_ids]
        for index in range(count)
    ]


def test_samples_are_told_apart_and_each_is_that_of_its_seed(client: ternion.Client) -> None:
    def told(seed: int, n: int | None = None) -> tuple[list[ternion.Event], ternion.Finished]:
        events = client.generate(text="Once", temperature=1.5, seed=seed, n=n, max_tokens=12)
        listed = list(events)
        assert events.finished is not None
        return listed, events.finished

    together, last = told(7, n=3)
    answers = answers_of(together, 3)
    for index, answer in enumerate(answers):
        alone, _ = told(7 + index)
        assert answers_of(alone, 1) == [answer]
    assert len({tuple(answer) for answer in answers}) == 3
    endings = [event for event in together if isinstance(event, ternion.Finished)]
    assert [ending.remaining for ending in endings] == [2, 1, 0]
    assert sorted(ending.index for ending in endings) == [0, 1, 2]
    assert [ending.HasField("usage") for ending in endings] == [False, False, True]
    assert together[-1] is last
    assert last.usage.completion_tokens == sum(len(answer) for answer in answers)

    with client.session() as session:
        session.start("three", text="Once", temperature=1.5, seed=7, n=3, max_tokens=12)
        session.half_close()
        in_session = [event for _, event in session if not isinstance(event, ternion.Failed)]
    assert answers_of(in_session, 3) == answers

    with pytest.raises(ternion.InvalidArgument) as none:
        list(client.generate(text="x", n=0))
    assert none.value.fields == ("n",)


def test_text_alone(client: ternion.Client) -> None:
    events = client.chat(messages=[{"role": "user", "content": JAPAN}], temperature=0)
    pieces = list(events.texts())
    assert "".join(pieces) == TOKYO
    assert all(pieces)
    assert events.finished is not None


def test_arguments_reach_the_server(client: ternion.Client) -> None:
    def told(seed: int) -> list[ternion.Event]:
        return list(
            client.generate(
                text="Once upon a time",
                temperature=1.5,
                seed=seed,
                max_tokens=20,
                request_id="mine",
            )
        )

    started = told(7)[1]
    assert isinstance(started, ternion.Started)
    assert (started.seed, started.request_id) == (7, "mine")
    texts = [text_of(iter(told(seed))) for seed in (7, 7, 8)]  # type: ignore[arg-type]
    assert texts[0] == texts[1] != texts[2]


def test_log_probabilities(client: ternion.Client) -> None:
    deltas = [
        event
        for event in client.generate(text="Once", temperature=0, max_tokens=3, logprobs=2)
        if isinstance(event, ternion.Delta)
    ]
    logprobs = [logprob for delta in deltas for logprob in delta.logprobs]
    assert len(logprobs) == 3
    for logprob in logprobs:
        assert logprob.logprob <= 0
        assert logprob.top[0].token_id == logprob.token_id
        assert len(logprob.top) == 2


def test_text_and_ids(client: ternion.Client) -> None:
    ids = client.tokenize(text="What is ternion?")
    assert ids == [54, 290, 276, 570, 30]
    assert client.detokenize(token_ids=ids) == "What is ternion?"
    count = client.count_tokens(messages=[ternion.user(JAPAN)])
    assert (count.count, count.context_limit) == (17, 1024)
    assert client.count_tokens(token_ids=ids).count == 5
    assert client.count_tokens(text="What is ternion?").count == 6


def test_what_is_served(client: ternion.Client) -> None:
    (model,) = client.models()
    assert client.model(model.name) == model
    with pytest.raises(ternion.NotFound) as missing:
        client.model("nobody")
    assert missing.value.resource == ("model", "nobody")
    kernels = client.kernels()
    selected = ternion.KernelState.KERNEL_STATE_SELECTED
    assert [kernel.state for kernel in kernels].count(selected) == 1


def test_wrong_fields_are_told_by_name_when_read(client: ternion.Client) -> None:
    events = client.generate(text="x", temperature=-1, top_p=0)
    with pytest.raises(ternion.InvalidArgument) as refused:
        next(events)
    assert refused.value.fields == ("sampling.temperature", "sampling.top_p")
    assert list(events) == []


def test_leaving_the_loop_frees_the_request(client: ternion.Client) -> None:
    with cut_short(client):
        for event in client.generate(**LONG):
            if isinstance(event, ternion.Delta):
                break


def test_leaving_the_text_frees_the_request(client: ternion.Client) -> None:
    with cut_short(client):
        for _ in client.generate(**LONG).texts():
            break


def test_closing_frees_the_request_and_ends_the_events(client: ternion.Client) -> None:
    with cut_short(client), begun(client) as events:
        pass
    assert list(events) == []
    assert events.finished is None


def test_closing_the_client_frees_all_that_it_runs(server: Server, client: ternion.Client) -> None:
    with cut_short(client), ternion.connect(endpoint=server.endpoint) as other:
        events = [begun(other) for _ in range(3)]
        session = other.session()
        session.start("a", **LONG)
        next(session)
    for reader in [*events, session]:
        with pytest.raises(ternion.Cancelled):
            list(reader)
    calls: list[Callable[[], object]] = [
        other.models,
        lambda: other.generate(text="x"),
        other.session,
    ]
    for call in calls:
        with pytest.raises(ternion.TransportError, match="the client is closed"):
            call()


def test_another_thread_may_close(client: ternion.Client) -> None:
    with cut_short(client), ThreadPoolExecutor(1) as threads:
        events = begun(client)
        reading = threads.submit(list[ternion.Event], events)
        events.close()
        # It may have been between two events then.
        with suppress(ternion.Cancelled):
            assert not any(isinstance(event, ternion.Finished) for event in reading.result())


def test_reading_slowly_loses_nothing(client: ternion.Client) -> None:
    events = client.generate(text="Once", temperature=0, max_tokens=100, ignore_eos=True)
    next(events)
    # Until the server has done all it can without a reader.
    steps = [client.load().steps]

    def stands_still() -> bool:
        time.sleep(0.05)
        steps.append(client.load().steps)
        return steps[-1] == steps[-2]

    assert become_true(stands_still)
    tokens = [
        token for event in events if isinstance(event, ternion.Delta) for token in event.token_ids
    ]
    assert len(tokens) == 100


def test_a_deadline_ends_a_request(server: Server, client: ternion.Client) -> None:
    with pytest.raises(ternion.DeadlineExceeded):
        list(client.generate(**LONG, timeout=HASTE))
    assert idle(client)
    with ternion.connect(endpoint=server.endpoint, timeout=HASTE) as hasty:
        with pytest.raises(ternion.DeadlineExceeded):
            list(hasty.generate(**LONG))
        assert text_of(hasty.generate(text="Once", max_tokens=2, ignore_eos=True, timeout=30))


def test_threads_share_a_client(client: ternion.Client) -> None:
    prompts = [f"What is {n} times 7?" for n in range(2, 10)]

    def answer(prompt: str) -> str:
        return text_of(client.chat(messages=[ternion.user(prompt)], temperature=0))

    one_by_one = [answer(prompt) for prompt in prompts]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(answer, prompts * 4))
    assert together == one_by_one * 4
    assert len(set(one_by_one)) > 1
    assert idle(client)


def test_no_thread_is_left(server: Server) -> None:
    before = threading.active_count()
    with ternion.connect(endpoint=server.endpoint) as client:
        client.models()
        events = begun(client)
        session = client.session()
        session.start("a", **LONG)
        next(session)
        # grpc takes the frames of this one in a thread, which waits for more.
        abandoned = client.session()
        abandoned.start("a", **LONG)
        next(abandoned)
        assert threading.active_count() > before
        del abandoned
        events.close()
        session.close()
        assert become_true(lambda: threading.active_count() == before)


class TestSession:
    def test_requests_share_a_stream(self, client: ternion.Client) -> None:
        with client.session() as session:
            session.start("good", messages=[ternion.user(JAPAN)], temperature=0)
            session.start("bad", text="x", min_p=2)
            session.start("cancelled", **LONG)
            session.start("late", **LONG, timeout=HASTE)
            told: dict[str, list[ternion.Event | ternion.Failed]] = {}
            for request_id, event in session:
                told.setdefault(request_id, []).append(event)
                if request_id == "cancelled" and isinstance(event, ternion.Started):
                    session.cancel("cancelled")
                    session.cancel("nobody")
                    session.half_close()
        text = (event.text for event in told["good"] if isinstance(event, ternion.Delta))
        assert "".join(text) == TOKYO
        (failed,) = told["bad"]
        assert isinstance(failed, ternion.Failed)
        assert isinstance(failed.error, ternion.InvalidArgument)
        assert failed.error.fields == ("sampling.min_p",)
        assert failed.usage is None
        reasons = {}
        for request_id in ("good", "cancelled", "late"):
            reasons[request_id] = ending(told[request_id][-1])
        assert reasons == {
            "good": "FINISH_REASON_STOP",
            "cancelled": "FINISH_REASON_CANCELLED",
            "late": "FINISH_REASON_DEADLINE_EXCEEDED",
        }

    def test_the_clients_timeout_is_each_requests(self, server: Server) -> None:
        with (
            ternion.connect(endpoint=server.endpoint, timeout=HASTE) as client,
            client.session() as session,
        ):
            session.start("late", **LONG)
            session.half_close()
            *_, (_, last) = session
        assert ending(last) == "FINISH_REASON_DEADLINE_EXCEEDED"

    def test_nothing_starts_after_the_half_close(self, client: ternion.Client) -> None:
        with client.session() as session:
            session.half_close()
            with pytest.raises(ternion.TransportError, match="the session is closed"):
                session.start("a", text="x")
            assert list(session) == []

    def test_leaving_it_frees_its_requests(self, client: ternion.Client) -> None:
        with cut_short(client), client.session() as session:
            for name in "abc":
                session.start(name, **LONG)
            for _, event in session:
                if isinstance(event, ternion.Delta):
                    break
        assert list(session) == []

    def test_dropping_it_frees_its_requests(self, client: ternion.Client) -> None:
        with cut_short(client):
            session = client.session()
            session.start("a", **LONG)
            next(session)
            del session

    def test_another_thread_may_close(self, client: ternion.Client) -> None:
        session = client.session()
        with ThreadPoolExecutor(1) as threads:
            reading = threads.submit(next, session)
            session.close()
            with pytest.raises((ternion.Cancelled, StopIteration)):
                reading.result(MOMENT)

    def test_threads_may_start_while_one_reads(self, client: ternion.Client) -> None:
        # More than may wait unsent, so that some have to wait for their turn.
        names = [f"{n}" for n in range(60)]
        with client.session() as session, ThreadPoolExecutor(6) as threads:
            starting = [
                threads.submit(session.start, name, text=name, temperature=0, max_tokens=2)
                for name in names
            ]
            ended = set[str]()
            for request_id, event in session:
                if isinstance(event, ternion.Finished):
                    ended.add(request_id)
                if len(ended) == len(names):
                    session.half_close()
            assert [start.result() for start in starting] == [None] * len(names)
        assert ended == set(names)

    def test_starting_waits_for_a_server_that_does_not_listen(
        self, start: Callable[..., Server]
    ) -> None:
        server = start()
        with (
            ternion.connect(endpoint=server.endpoint) as client,
            client.session() as session,
            ThreadPoolExecutor(1) as threads,
            server.stopped(),
        ):
            started = [0]

            def start_many() -> None:
                for n in range(100):
                    session.start(f"{n}", text="x" * 1_000_000)
                    started[0] += 1

            starting = threads.submit(start_many)
            counts = [0]

            def stands_still() -> bool:
                time.sleep(0.2)
                counts.append(started[0])
                return 0 < counts[-1] == counts[-2]

            assert become_true(stands_still)
            assert not starting.done()
            session.close()
            with pytest.raises(ternion.TransportError, match="the session is closed"):
                starting.result(MOMENT)

    def test_starting_tells_of_the_end(self, start: Callable[..., Server]) -> None:
        server = start()
        with ternion.connect(endpoint=server.endpoint) as client:
            session = client.session()
            session.start("a", **LONG)
            next(session)
            server.kill()
            with pytest.raises(ternion.TransportError) as read:
                list(session)
            with pytest.raises(ternion.TransportError) as started:
                session.start("b", text="x")
            assert str(started.value) == str(read.value)


class TestFailure:
    def test_nobody_there(self) -> None:
        with ternion.connect(endpoint="http://127.0.0.1:1") as client:
            calls: list[Callable[[], object]] = [
                client.models,
                lambda: next(client.generate(text="x")),
            ]
            for call in calls:
                with pytest.raises(ternion.TransportError, match="onnection refused"):
                    call()

    def test_a_server_that_dies_is_not_asked_again(self, start: Callable[..., Server]) -> None:
        server = start()
        with ternion.connect(endpoint=server.endpoint) as client:
            events = begun(client)
            server.kill()
            start(listen=server.endpoint.removeprefix("http://"))
            with pytest.raises(ternion.TransportError):
                list(events)
            assert client.models(), "it is there again"

    def test_a_server_that_is_late_is_found(self, start: Callable[..., Server]) -> None:
        early = start()
        with ternion.connect(endpoint=early.endpoint, retries=20) as client:
            assert client.models()
            early.kill()
            with ThreadPoolExecutor(2) as threads:
                model = threads.submit(client.models)
                answer = threads.submit(
                    lambda: text_of(client.chat(messages=[ternion.user(JAPAN)], temperature=0))
                )
                start(listen=early.endpoint.removeprefix("http://"))
                assert model.result()
                assert answer.result() == TOKYO

    def test_a_full_queue_is_told_at_once(self, start: Callable[..., Server]) -> None:
        server = start("--max-num-seqs", "1", "--max-queued", "1")
        with ternion.connect(endpoint=server.endpoint) as client:
            first, second = begun(client), client.generate(**LONG)
            assert isinstance(next(second), ternion.Queued)
            with pytest.raises(ternion.ResourceExhausted) as refused:
                next(client.generate(**LONG))
            assert refused.value.retry_after is not None
            # It is not tried again.
            assert Attempts(timeout=None, retries=3).pause(refused.value) is None
            first.close()
            second.close()

    def test_a_draining_server_says_so(self, start: Callable[..., Server]) -> None:
        server = start()
        with ternion.connect(endpoint=server.endpoint, retries=0) as client:
            events = begun(client)
            assert client.drain().in_flight == 1
            with pytest.raises(ternion.Unavailable) as refused:
                next(client.generate(text="x"))
            assert refused.value.retry_after is not None
            events.close()
            assert server.wait() == 0
