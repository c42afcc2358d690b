"""The endpoint judge against a real HTTP server on the loopback that misbehaves in many ways."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from refbench.bench.errors import UserError
from refbench.bench.runner.evaluate import evaluate
from refbench.metrics.judges.cost import Account, Prices, estimate_cost
from refbench.metrics.judges.endpoint import EndpointJudge, Limits, retry_after_s
from refbench.metrics.judges.judge import Question, parse_score, read_loosely
from refbench.metrics.judges.shared import SharedAccount, SharedSlots

KEY = "sk-test-secret-0123456789"
QUESTION = Question(jpegs=(b"\xff\xd8first", b"\xff\xd8second"), instruction="How natural is it?")
LIMITS = Limits(concurrency=4, timeout_s=20, attempts=3, first_wait_s=0.01, longest_wait_s=1.0)
# For what answers late or never.
IMPATIENT = replace(LIMITS, timeout_s=0.5)

Behaviour = Callable[["Handler"], None]


class Server(ThreadingHTTPServer):
    """Plays the behaviours in turn, the last one for ever; keeps the requests and counts those at work."""

    daemon_threads = True

    def __init__(self, behaviours: list[Behaviour]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.behaviours = behaviours
        self.requests: list[dict[str, Any]] = []
        self.at_work = self.most_at_work = 0
        self.lock = threading.Lock()
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is what some tests are about."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.lock:
            self.server.requests.append(
                {"path": self.path, "body": json.loads(body), "headers": self.headers}
            )
            number = min(len(self.server.requests), len(self.server.behaviours)) - 1
            self.server.at_work += 1
            self.server.most_at_work = max(self.server.most_at_work, self.server.at_work)
        try:
            self.server.behaviours[number](self)
        finally:
            with self.server.lock:
                self.server.at_work -= 1

    def reply(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on the terminal."""


def completion(text: str | None, **message: Any) -> bytes:
    return json.dumps(
        {
            "id": "1",
            "object": "chat.completion",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text, **message}}],
            "usage": {"prompt_tokens": 1000, "completion_tokens": 2},
        }
    ).encode()


def says(text: str | None, **message: Any) -> Behaviour:
    return lambda handler: handler.reply(completion(text, **message))


def status(code: int, message: str = "no", **headers: str) -> Behaviour:
    body = json.dumps({"error": {"message": message, "code": None}}).encode()
    return lambda handler: handler.reply(body, code, **headers)


def raw(body: bytes, **headers: str) -> Behaviour:
    return lambda handler: handler.reply(body, **headers)


def hangs(handler: Handler) -> None:
    handler.server.over.wait(10)


def hangs_up_midway(handler: Handler) -> None:
    body = completion("4")
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body[: len(body) // 2])
    handler.close_connection = True


def trickles_body(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    trickle(handler, b" ")


def trickles_headers(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    trickle(handler, b"x")


def trickle(handler: Handler, byte: bytes) -> None:
    while not handler.server.over.wait(0.05):
        handler.wfile.write(byte)
        handler.wfile.flush()


def endless_body(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.end_headers()
    while not handler.server.over.is_set():
        handler.wfile.write(b" " * 65536)


def echoes_key(handler: Handler) -> None:
    handler.reply(completion(f"you sent {handler.headers['Authorization']}"))


def echoes_key_as_error(code: int) -> Behaviour:
    return lambda handler: status(code, f"bad key {handler.headers['Authorization']}")(handler)


Talk = tuple[EndpointJudge, Server]


class Waits:
    """Remembers the seconds that a judge waits between attempts, without waiting."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.seconds.append(seconds)


@pytest.fixture
def waits() -> Waits:
    return Waits()


@pytest.fixture
def talk(waits: Waits) -> Iterator[Callable[..., Talk]]:
    """Starts a server with behaviours and a judge that asks it."""
    opened: list[Talk] = []

    def start(
        *behaviours: Behaviour,
        limits: Limits = LIMITS,
        account: Account | None = None,
        is_official: bool = True,
        shared: Path | None = None,
    ) -> Talk:
        slots = SharedSlots(folder=shared, count=limits.concurrency).one if shared else nullcontext
        server = Server(list(behaviours))
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        judge = EndpointJudge(
            model="judge-1",
            url=server.url,
            key=KEY,
            limits=limits,
            account=account or Account(),
            tokens_per_image=255,
            is_official=is_official,
            slots=slots,
            sleep=waits.sleep,
        )
        opened.append((judge, server))
        return judge, server

    yield start
    for judge, server in opened:
        judge.close()
        server.over.set()
        server.shutdown()
        server.server_close()


def test_request_is_the_official_one(talk: Callable[..., Talk]) -> None:
    judge, server = talk(says("4"))
    judge.judge(QUESTION, [1])
    request = server.requests[0]
    assert request["path"] == "/v1/chat/completions"
    assert sorted(request["body"]) == ["messages", "model", "stream"]
    assert request["body"]["stream"] is False
    assert request["body"]["model"] == "judge-1"
    (message,) = request["body"]["messages"]
    assert message["role"] == "user"
    assert message["content"] == [
        {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,/9hmaXJzdA=="}},
        {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,/9hzZWNvbmQ="}},
        {"type": "text", "text": "How natural is it?"},
    ]
    assert request["headers"]["Authorization"] == f"Bearer {KEY}"


MISBEHAVIOURS = {
    "429 with Retry-After": (status(429, Retry_After="0.05"), "HTTP 429"),
    "500": (status(500), "HTTP 500"),
    "hangs": (hangs, "did not answer within 0.5 s"),
    "closes the connection in mid-answer": (hangs_up_midway, "connection"),
    "an error in an answer of 200": (raw(b'{"error": {"message": "upstream is down"}}'), "upstream is down"),
    "an error that is a text": (
        raw(b'{"error": "no such\\n deployment"}'),
        "is an error: no such deployment",
    ),
    "choices are null": (raw(b'{"choices": null, "detail": "try later"}'), '"detail": "try later"'),
    "a web page": (raw(b"<!doctype html>\n<title>Log in</title>"), "--judge-url"),
    "words of a web page": (raw(b"<!doctype html>\n<title>Log in</title>"), "html> <title>Log in</title>"),
    "a stream": (raw(b'data: {"choices": []}\n\ndata: [DONE]\n\n'), "a stream of events"),
    "content as parts": (says([{"type": "text", "text": "4"}]), "holds no text"),  # type: ignore[arg-type]
    "thoughts": (says("<think>hm</think>4"), "no number from 1 to 5: <think>hm</think>4"),
    "emphasis": (says("**4**"), "no number from 1 to 5: **4**"),
    "no choices": (raw(b'{"choices": []}'), "holds no choice"),
    "prose": (says("I would say: 4"), "no number from 1 to 5: I would say: 4"),
    "refusal": (says(None, refusal="I cannot help with that."), "no number from 1 to 5: I cannot help"),
    "out of range": (says("6"), "no number from 1 to 5: 6"),
    "invalid JSON": (raw(b'{"choices": [{"message": '), "no JSON"),
    "huge body": (endless_body, "longer than 1,048,576 bytes"),
    "slow trickle": (trickles_body, "did not answer within 0.5 s"),
    "slow headers": (trickles_headers, "did not answer within 0.5 s"),
    "not an object": (raw(b"[1, 2]"), "holds no choice"),
    "no text": (says(None), "holds no text"),
    "text of a wrong type": (raw(b'{"choices": [{"message": {"content": [4]}}]}'), "holds no text"),
    "compressed": (raw(gzip.compress(completion("4")), Content_Encoding="gzip"), "compressed"),
    "not a number": (says("nan"), "no number from 1 to 5"),
}


def limits_for(name: str) -> Limits:
    """Little patience with what answers late or never, else enough for a busy machine."""
    return IMPATIENT if "did not answer" in MISBEHAVIOURS[name][1] else LIMITS


@pytest.mark.parametrize("name", MISBEHAVIOURS)
def test_misbehaviour_once_is_asked_again(name: str, talk: Callable[..., Talk]) -> None:
    judge, server = talk(MISBEHAVIOURS[name][0], says(" 4\n"), limits=limits_for(name))
    (answer,) = judge.judge(QUESTION, [1])
    assert answer.verdict == "4"
    assert answer.failure is None
    assert answer.replies[-1] == " 4\n"
    assert len(server.requests) == 2


@pytest.mark.parametrize("name", MISBEHAVIOURS)
def test_misbehaviour_for_ever_is_a_failed_run(name: str, talk: Callable[..., Talk]) -> None:
    behaviour, reason = MISBEHAVIOURS[name]
    judge, server = talk(behaviour, limits=replace(limits_for(name), attempts=2))
    (answer,) = judge.judge(QUESTION, [1])
    assert answer.verdict is None
    assert reason in (answer.failure or "")
    assert "after 2 attempts" in (answer.failure or "")
    assert len(server.requests) == 2


LOOSE_REPLIES: dict[str, tuple[Any, str]] = {
    "thoughts": ("<think>The hands melt.\n5? No.</think>\n\n4\n", "read without its <think>"),
    "emphasis": ("**4**", "read without its emphasis"),
    "both": ("<think></think> `4`", "read without its <think> and emphasis"),
    "parts": ([{"type": "thinking", "text": "5"}, {"type": "text", "text": "4"}], "joined from parts"),
}


@pytest.mark.parametrize("name", LOOSE_REPLIES)
def test_another_judge_than_the_official_one_is_read_loosely(name: str, talk: Callable[..., Talk]) -> None:
    text, reading = LOOSE_REPLIES[name]
    judge, server = talk(says(text), is_official=False)
    (answer,) = judge.judge(QUESTION, [1])
    assert (answer.verdict, answer.reading) == ("4", reading)
    assert len(server.requests) == 1


@pytest.mark.parametrize("reply", ["Score: 4", "4/5", "**6**", "<think>4", "4</think>", "<think>4</think>"])
def test_loose_reading_guesses_nothing(reply: str) -> None:
    assert read_loosely(reply) is None


@pytest.mark.parametrize("name", ["emphasis", "a web page", "a stream", "choices are null", "compressed"])
def test_judge_that_never_gave_a_number_is_asked_once_per_further_run(
    name: str, talk: Callable[..., Talk]
) -> None:
    judge, server = talk(*[MISBEHAVIOURS[name][0]] * 4, says("4"), MISBEHAVIOURS[name][0])
    assert "after 3 attempts" in (judge.judge(QUESTION, [1])[0].failure or "")
    assert "after 1 attempt)" in (judge.judge(QUESTION, [1])[0].failure or "")
    assert judge.judge(QUESTION, [1])[0].verdict == "4"
    # It can be read: from now on every run has its attempts again.
    assert "after 3 attempts" in (judge.judge(QUESTION, [1])[0].failure or "")
    assert len(server.requests) == 8


@pytest.mark.parametrize("encoding", ["Identity", "identity ", ""])
def test_encoding_that_is_none_is_read(encoding: str, talk: Callable[..., Talk]) -> None:
    judge, server = talk(raw(completion("4"), Content_Encoding=encoding))
    assert judge.judge(QUESTION, [1])[0].verdict == "4"
    assert len(server.requests) == 1


def test_server_words_are_one_short_line_without_the_key(talk: Callable[..., Talk]) -> None:
    judge, _ = talk(raw(f"<p>\n{'x' * 100}{KEY}\x1b[31m{'y' * 5000}</p>".encode()))
    failure = judge.judge(QUESTION, [1])[0].failure or ""
    assert "[key]" in failure and KEY[:8] not in failure
    assert len(failure) < 300 and failure.isprintable()


def test_raw_replies_are_kept_in_order(talk: Callable[..., Talk]) -> None:
    judge, _ = talk(says("Score: 4"), says("6"), says("3"))
    (answer,) = judge.judge(QUESTION, [1])
    assert answer.replies == ("Score: 4", "6", "3")
    assert (answer.tokens_in, answer.tokens_out) == (3000, 6)


def test_retry_after_is_honoured(talk: Callable[..., Talk], waits: Waits) -> None:
    judge, _ = talk(status(429, Retry_After="0.4"), says("4"))
    judge.judge(QUESTION, [1])
    assert waits.seconds == [0.4]


def test_waits_grow_without_retry_after(talk: Callable[..., Talk], waits: Waits) -> None:
    limits = replace(LIMITS, attempts=5, first_wait_s=0.1, longest_wait_s=0.5)
    talk(status(500), limits=limits)[0].judge(QUESTION, [1])
    for wait, middle in zip(waits.seconds, (0.1, 0.2, 0.4, 0.8), strict=True):
        assert middle / 2 <= wait <= 1.5 * middle or wait == 0.5


def test_longer_wait_than_allowed_ends_the_run(talk: Callable[..., Talk], waits: Waits) -> None:
    judge, server = talk(status(429, Retry_After="3600"), says("4"))
    (answer,) = judge.judge(QUESTION, [1])
    assert answer.verdict is None
    assert waits.seconds == []
    assert len(server.requests) == 1


def test_retry_after_reads_seconds_and_dates() -> None:
    assert retry_after_s({}) is None
    assert retry_after_s({"retry-after": "1.5"}) == 1.5
    assert retry_after_s({"retry-after": "-3"}) == 0
    assert retry_after_s({"retry-after": "soon"}) is None
    assert retry_after_s({"retry-after": "nan"}) is None
    assert retry_after_s({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    assert (retry_after_s({"retry-after": "Wed, 21 Oct 2099 07:28:00 GMT"}) or 0) > 1e6


@pytest.mark.parametrize("code", [401, 404])
def test_unusable_endpoint_is_asked_once_and_ends_the_run(code: int, talk: Callable[..., Talk]) -> None:
    judge, server = talk(status(code))
    for run in (1, 2):
        with pytest.raises(UserError, match=f"HTTP {code}") as caught:
            judge.judge(QUESTION, [run])
        assert "\n" not in str(caught.value)
    assert len(server.requests) == 1


@pytest.mark.parametrize("code", [401, 404])
def test_after_a_score_a_refused_request_is_one_videos_failure(code: int, talk: Callable[..., Talk]) -> None:
    judge, server = talk(says("4"), status(code), says("5"))
    assert [judge.judge(QUESTION, [1])[0].verdict for _ in range(3)] == ["4", None, "5"]
    assert len(server.requests) == 3


def test_account_that_is_used_up_ends_the_run(talk: Callable[..., Talk]) -> None:
    body = json.dumps({"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}})
    judge, server = talk(lambda handler: handler.reply(body.encode(), 429))
    with pytest.raises(UserError, match="You exceeded your quota"):
        judge.judge(QUESTION, [1])
    assert len(server.requests) == 1


@pytest.mark.parametrize("code", [400, 403])
def test_refused_input_is_not_repeated_but_the_next_video_is_asked(
    code: int, talk: Callable[..., Talk]
) -> None:
    judge, server = talk(status(code, "your input was flagged"), says("4"))
    (answer,) = judge.judge(QUESTION, [1])
    assert f"HTTP {code}: your input was flagged" in (answer.failure or "")
    assert judge.judge(QUESTION, [1])[0].verdict == "4"
    assert len(server.requests) == 2


def test_redirect_is_not_followed(talk: Callable[..., Talk]) -> None:
    _, other = talk(says("4"))
    judge, server = talk(status(307, Location=f"{other.url}/chat/completions"))
    (answer,) = judge.judge(QUESTION, [1])
    assert "HTTP 307" in (answer.failure or "")
    assert len(server.requests) == 1
    assert not other.requests


@pytest.mark.parametrize("limit", [1, 3])
def test_no_more_requests_at_a_time_than_the_limit(limit: int, talk: Callable[..., Talk]) -> None:
    def slow(handler: Handler) -> None:
        time.sleep(0.08)
        says("4")(handler)

    judge, server = talk(slow, limits=replace(LIMITS, concurrency=limit))
    threads = [threading.Thread(target=judge.judge, args=(QUESTION, [1, 2])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.requests) == 8
    assert server.most_at_work == limit


def test_runs_are_answered_in_their_order(talk: Callable[..., Talk]) -> None:
    judge, _ = talk(says("2"))
    assert [answer.run for answer in judge.judge(QUESTION, [3, 1, 2])] == [3, 1, 2]
    assert judge.judge(QUESTION, []) == []


def test_key_is_in_no_answer_and_no_log(
    talk: Callable[..., Talk], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    seen = []
    for behaviour in (echoes_key, *map(echoes_key_as_error, (400, 401, 403, 404, 429, 500)), hangs_up_midway):
        judge, server = talk(behaviour)
        try:
            seen.append(repr(judge.judge(QUESTION, [1])))
        except UserError as error:
            seen.append(str(error))
        assert KEY in server.requests[0]["headers"]["Authorization"]
    assert "[key]" in seen[0]
    assert KEY not in "".join(seen)
    assert KEY not in caplog.text
    output = capfd.readouterr()
    assert KEY not in output.out + output.err


PRICES = Prices(tokens_in=10.0, tokens_out=100.0)


def test_budget_stops_before_the_request(talk: Callable[..., Talk]) -> None:
    # The server reports 1,000 tokens in and 2 out: $0.0102 a request; the estimate is 515 and 8: $0.00595.
    account = Account(PRICES, budget=0.02)
    judge, server = talk(says("4"), account=account)
    assert judge.judge(QUESTION, [1])[0].verdict == "4"
    assert account.spent == pytest.approx(0.0102)
    assert judge.judge(QUESTION, [1])[0].verdict == "4"
    (stopped,) = judge.judge(QUESTION, [1])
    assert stopped.over_budget
    assert "budget of $0.02" in (stopped.failure or "")
    assert len(server.requests) == 2
    assert account.reserved == pytest.approx(0.0)


def test_budget_that_covers_some_runs_only_asks_none(talk: Callable[..., Talk]) -> None:
    judge, server = talk(says("4"), account=Account(PRICES, budget=0.013))
    answers = judge.judge(QUESTION, [1, 2, 3])
    assert all(answer.over_budget for answer in answers)
    assert not server.requests


def test_budget_is_one_for_all_processes_of_a_run(talk: Callable[..., Talk], tmp_path: Path) -> None:
    first, second = (SharedAccount(tmp_path, PRICES, budget=0.02) for _ in range(2))
    judge, server = talk(says("4"), account=first)
    other, other_server = talk(says("4"), account=second)
    assert judge.judge(QUESTION, [1])[0].verdict == "4"
    assert other.judge(QUESTION, [1])[0].verdict == "4"
    (stopped,) = judge.judge(QUESTION, [1])
    assert stopped.over_budget and "$0.0204 spent" in (stopped.failure or "")
    assert other.judge(QUESTION, [1])[0].over_budget
    assert (len(server.requests), len(other_server.requests)) == (1, 1)
    assert first.reserved == pytest.approx(0.0)


def test_evaluation_with_two_workers_spends_its_budget_once(
    talk: Callable[..., Talk], dataset: Path, videos: Path, tmp_path: Path
) -> None:
    _, server = talk(says("4"))
    # A request is estimated at about $0.02 and costs $0.0102: one is within the budget, a second one is not.
    options = {"url": server.url, "runs": 1, "use_cache": False, "budget": 0.025}
    prices = {"price_in": PRICES.tokens_in, "price_out": PRICES.tokens_out}
    done = evaluate(
        videos,
        dataset=dataset,
        name="mine",
        metrics="naturalscore",
        options={"naturalscore": options | prices},
        limit=4,
        workers=2,
        out=tmp_path / "results",
    )
    assert len(server.requests) == 1
    assert sorted(record.value is None for record in done.records) == [False, True, True, True]
    assert all("budget of $0.0" in str(record.reason) for record in done.failures)


def test_reservation_of_a_killed_process_stays(tmp_path: Path) -> None:
    price = estimate_cost(requests=1, images_per_request=2, instruction="x", prices=PRICES)
    assert SharedAccount(tmp_path, PRICES, budget=0.01).reserve(price)
    assert not SharedAccount(tmp_path, PRICES, budget=0.01).reserve(price)


def test_slots_are_those_of_all_processes_of_a_run(tmp_path: Path) -> None:
    async def hold() -> None:
        first, second = (SharedSlots(folder=tmp_path, count=2) for _ in range(2))
        async with first.one(), second.one():
            waiting = asyncio.ensure_future(second.one().__aenter__())
            await asyncio.sleep(0)
            assert not waiting.done()
            assert first._free() is None
        await waiting

    asyncio.run(hold())


def test_judges_of_two_processes_keep_to_one_limit(talk: Callable[..., Talk], tmp_path: Path) -> None:
    limits = replace(LIMITS, concurrency=1)
    talks = [talk(says("4"), limits=limits, shared=tmp_path) for _ in range(2)]
    with SharedSlots(folder=tmp_path, count=1)._free() as held:  # type: ignore[union-attr]
        threads = [threading.Thread(target=judge.judge, args=(QUESTION, [1])) for judge, _ in talks]
        for thread in threads:
            thread.start()
        assert held is not None
        assert not any(server.requests for _, server in talks)
    for thread in threads:
        thread.join()
    assert [len(server.requests) for _, server in talks] == [1, 1]


def test_budget_stops_repeated_asking(talk: Callable[..., Talk]) -> None:
    judge, server = talk(says("prose"), account=Account(PRICES, budget=0.015))
    (answer,) = judge.judge(QUESTION, [1])
    assert answer.over_budget
    assert len(server.requests) == 1


def test_time_out_counts_as_paid_and_a_server_error_does_not(talk: Callable[..., Talk]) -> None:
    paid, unpaid = Account(PRICES), Account(PRICES)
    talk(hangs, limits=replace(IMPATIENT, attempts=1), account=paid)[0].judge(QUESTION, [1])
    talk(status(500), limits=replace(LIMITS, attempts=1), account=unpaid)[0].judge(QUESTION, [1])
    assert paid.spent > 0
    assert unpaid.spent == 0
    assert paid.reserved == unpaid.reserved == 0


def test_estimate_counts_images_tokens_and_dollars() -> None:
    estimate = estimate_cost(requests=3, images_per_request=16, instruction="x" * 400, prices=PRICES)
    assert (estimate.requests, estimate.images) == (3, 48)
    assert estimate.tokens_in == 3 * (16 * 255 + 100)
    assert estimate.dollars == pytest.approx((estimate.tokens_in * 10 + estimate.tokens_out * 100) / 1e6)
    assert estimate_cost(requests=1, images_per_request=16, instruction="x").dollars is None


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("1", 1.0),
        ("5", 5.0),
        (" 3 \n", 3.0),
        ("4.5", 4.5),
        ("4.", 4.0),
        ("1e0", 1.0),
        ("0_5", 5.0),
        ("+2", 2.0),
        ("0", None),
        ("0.99", None),
        ("5.01", None),
        ("6", None),
        ("-3", None),
        ("nan", None),
        ("inf", None),
        ("", None),
        ("Score: 4", None),
        ("4/5", None),
        ("4 5", None),
        ("**4**", None),
        ("four", None),
        ("error", None),
    ],
)
def test_parse_score_is_float_of_the_whole_reply_within_range(reply: str, score: float | None) -> None:
    assert parse_score(reply) == score
