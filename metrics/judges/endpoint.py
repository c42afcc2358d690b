"""A judge behind an OpenAI-compatible endpoint, which may misbehave in any way.

The request is the official one (`eval/get_naturalscore.py`, OpenS2V-Nexus v1.1, commit 210eb08): `model`,
`stream=False` and one user message of the pictures as data URLs, then the text. Around it, different from the
official script's five attempts: every request has one deadline for all of it, an answer is at most 1 MiB,
waits grow exponentially with jitter and honour Retry-After, and redirects, which could carry the key
elsewhere, are not followed.
"""

from __future__ import annotations

import asyncio
import base64
import importlib
import json
import random
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any, TypeVar

from refbench.bench.errors import UserError, one_line
from refbench.metrics.judges.cost import Account, CostEstimate, estimate_cost
from refbench.metrics.judges.judge import Answer, Judge, Question, Reply, forget, parse_score, read_loosely

LARGEST_ANSWER_BYTES = 1 << 20
LONGEST_KEPT_REPLY = 2000
LONGEST_FAILURE = 240
LARGEST_TOKEN_COUNT = 10_000_000
SHORTEST_SECRET = 8
REFUSED_KEY = 401
# 403 is not among them: it also says that a moderation flagged the input, which is one video's matter.
UNUSABLE = (REFUSED_KEY, 404)
WORTH_REPEATING = (408, 409, 425, 429)

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of the requests to an endpoint: how many at a time, seconds for one, attempts per run, waits.

    The wait before attempt n+1 is `first_wait_s`·2^(n-1), half to one and a half times that; an endpoint that
    asks for more than `longest_wait_s` is not waited for.
    """

    concurrency: int = 4
    timeout_s: float = 120.0
    attempts: int = 5
    first_wait_s: float = 2.0
    longest_wait_s: float = 120.0


class Fault(Exception):
    """A request without an answer.

    Whether to `repeat` it, the seconds that the endpoint asks to wait, whether the endpoint is `unusable` for
    all further requests, whether it answered, but nothing that is `readable`, and whether the request was
    `perhaps_charged`. The reason may be long and hold the key.
    """

    def __init__(
        self,
        reason: str,
        *,
        repeat: bool = True,
        wait_s: float | None = None,
        unusable: bool = False,
        readable: bool = True,
        perhaps_charged: bool = False,
    ) -> None:
        super().__init__(reason)
        self.repeat = repeat
        self.wait_s = wait_s
        self.unusable = unusable
        self.readable = readable
        self.perhaps_charged = perhaps_charged


class EndpointJudge(Judge):
    """Asks an endpoint; may be used by several threads at once, the limits hold for all together.

    The key lives in the client alone and is cut out of every text that leaves this class. An endpoint that
    refuses the key (401) or does not know the model (404) before it ever gave a score, or says that the
    account is used up, ends the run with a UserError; any other request that it refuses (400, 403; 401 and
    404 after a score, when key and address are known to be right) has failed alone. While
    no answer could be read at all, only the first run takes all its attempts in vain: the next ones are asked
    once. Of a judge that is not the official one `read_loosely` reads as well. `slots` gives the slots
    that other processes take as well. `sleep` waits so many seconds between attempts.
    """

    def __init__(
        self,
        *,
        model: str,
        url: str,
        key: str,
        limits: Limits,
        account: Account,
        tokens_per_image: int,
        is_official: bool = True,
        slots: Callable[[], AbstractAsyncContextManager[Any]] = nullcontext,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        import openai

        self.model = model
        self.account = account
        self.requests_sent = 0
        self._limits = limits
        self._key = key
        self._tokens_per_image = tokens_per_image
        self._is_official = is_official
        self._sleep = sleep
        # Whether an answer was ever read, and whether a run used up all its attempts without one.
        self._was_read = False
        self._was_in_vain = False
        self._unusable: str | None = None
        self._shared_slot = slots
        self._slots = asyncio.Semaphore(limits.concurrency)
        self._client = openai.AsyncOpenAI(
            api_key=key,
            base_url=url,
            max_retries=0,
            timeout=limits.timeout_s,
            # A compressed answer could unfold to any size.
            default_headers={"Accept-Encoding": "identity"},
            http_client=openai.DefaultAsyncHttpxClient(
                follow_redirects=False, timeout=limits.timeout_s, event_hooks={"response": [_cap_answer]}
            ),
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="judge", daemon=True)
        self._thread.start()

    def judge(
        self, question: Question, runs: Sequence[int], on_answer: Callable[[Answer], None] = forget
    ) -> list[Answer]:
        """One answer per run; the runs are asked at the same time, as far as the limit allows.

        Raises UserError for an endpoint that no request can use.
        """
        return self._wait_for(self._judge(question, runs, on_answer))

    def close(self) -> None:
        """Close the connections and end the thread."""
        if self._thread.is_alive():
            self._wait_for(self._client.close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _wait_for(self, work: Coroutine[Any, Any, Result]) -> Result:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            # An interrupted run must not go on asking, and paying, in the background.
            future.cancel()
            raise

    async def _judge(
        self, question: Question, runs: Sequence[int], on_answer: Callable[[Answer], None]
    ) -> list[Answer]:
        if self._unusable is not None:
            raise UserError(self._unusable)
        price = self._price(question, 1)
        if not self.account.affords(self._price(question, len(runs))):
            # Some runs of a video without the others would be paid for and not make a score.
            why = self.account.why_closed(self._price(question, len(runs)))
            return [self._answer(run, [], failure=why, over_budget=True) for run in runs]
        messages = request_messages(question)

        async def run_and_tell(run: int) -> Answer:
            answer = await self._run(messages, price, run)
            on_answer(answer)
            return answer

        tasks = [asyncio.ensure_future(run_and_tell(run)) for run in runs]
        try:
            answers = await asyncio.gather(*tasks)
        finally:
            # After an error the other runs must not go on asking, and paying, in the background.
            for task in tasks:
                task.cancel()
        if self._unusable is not None:
            raise UserError(self._unusable)
        return list(answers)

    def _price(self, question: Question, requests: int) -> CostEstimate:
        return estimate_cost(
            requests=requests,
            images_per_request=len(question.jpegs),
            instruction=question.instruction,
            prices=self.account.prices,
            tokens_per_image=self._tokens_per_image,
        )

    async def _run(self, messages: list[dict[str, Any]], price: CostEstimate, run: int) -> Answer:
        """Ask until a reply is a score, the attempts are used up, or asking again is of no use."""
        replies: list[Reply] = []
        failure, waits = "", 0
        for attempt in range(1, self._limits.attempts + 1):
            try:
                async with self._slots, self._shared_slot():
                    if self._unusable is not None:
                        return self._answer(run, replies, failure=self._unusable)
                    if not self.account.reserve(price):
                        return self._answer(
                            run, replies, failure=self.account.why_closed(price), over_budget=True
                        )
                    replies.append(await self._ask_and_pay(messages, price))
                if (read := self._read(replies[-1])) is not None:
                    self._was_read = True
                    return self._answer(run, replies, verdict=read[0], reading=read[1])
                failure = f"the judge's answer is no number from 1 to 5: {self._clean(replies[-1].text, 80)}"
                if self._gives_up(attempt):
                    break
            except Fault as fault:
                failure = self._clean(str(fault), LONGEST_FAILURE)
                if fault.unusable:
                    self._unusable = failure
                wait_s = max(fault.wait_s or 0.0, self._wait_s(waits))
                waits += 1
                if not fault.repeat or (fault.wait_s or 0.0) > self._limits.longest_wait_s:
                    return self._answer(run, replies, failure=failure)
                if not fault.readable and self._gives_up(attempt):
                    break
                if attempt < self._limits.attempts:
                    await self._sleep(wait_s)
        attempts = "1 attempt" if attempt == 1 else f"{attempt} attempts"
        return self._answer(run, replies, failure=f"{failure} (after {attempts})")

    def _read(self, reply: Reply) -> tuple[str, str] | None:
        """The number of a reply and how it was read (an empty text: as the official script does), or None."""
        if parse_score(reply.text) is not None:
            return reply.text.strip(), "joined from parts" if reply.in_parts else ""
        return None if self._is_official else read_loosely(reply.text)

    def _gives_up(self, attempt: int) -> bool:
        """Whether asking again after an answer that cannot be read is of no use: no answer ever could be,
        and one run has used up its attempts (which this notes).
        """
        self._was_in_vain |= attempt == self._limits.attempts
        return self._was_in_vain and not self._was_read

    async def _ask_and_pay(self, messages: list[dict[str, Any]], price: CostEstimate) -> Reply:
        """One request; the account's reservation becomes what it used."""
        tokens_in = tokens_out = 0
        try:
            reply = await self.ask(messages)
            # An endpoint that does not say what it used is taken to have used the estimate.
            tokens_in = reply.tokens_in or price.tokens_in
            tokens_out = reply.tokens_out or price.tokens_out
            return reply
        except Fault as fault:
            if fault.perhaps_charged:
                tokens_in, tokens_out = price.tokens_in, price.tokens_out
            raise
        finally:
            self.account.settle(price, tokens_in=tokens_in, tokens_out=tokens_out)

    async def ask(self, messages: list[dict[str, Any]]) -> Reply:
        """One request and its reply, without repetition or budget. Raises Fault for everything else."""
        import openai

        self.requests_sent += 1
        create: Any = self._client.chat.completions.with_raw_response.create
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                response = await create(model=self.model, messages=messages, stream=False)
        except (TimeoutError, openai.APITimeoutError):
            seconds = f"{self._limits.timeout_s:g} s"
            raise Fault(f"the judge did not answer within {seconds}", perhaps_charged=True) from None
        except openai.APIStatusError as error:
            raise self._status_fault(error) from None
        except Exception as error:  # noqa: BLE001 - a hostile answer may break any layer below
            # Some versions of openai wrap what a hook raises, others let it through.
            cause = error if isinstance(error, _AnswerTooLong) else error.__cause__ or error
            if isinstance(cause, _AnswerTooLong):
                raise Fault(str(cause), readable=False, perhaps_charged=True) from None
            # Only the kind: the message of a transport error may quote the request's headers.
            raise Fault(f"the connection to the judge failed ({type(cause).__name__})") from None
        return read_reply(response.http_response.content, parts=not self._is_official)

    def _status_fault(self, error: Any) -> Fault:
        """What an HTTP status means. Of the server's own words nothing is shown where they may hold the
        key.
        """
        status = int(error.status_code)
        code = str(getattr(error, "code", None) or "")
        if status == REFUSED_KEY:
            why = f"the judge's endpoint refuses the key (HTTP {status}): set another one and run this again"
            return Fault(why, repeat=False, unusable=not self._was_read)
        words = error.body.get("message") if isinstance(error.body, dict) else None
        if not isinstance(words, str):
            words = error.response.text
        said = f": {self._clean(words, 160)}" if words.strip() else ""
        if status == 404:
            said = f"{said}: see that --judge-url and --judge-model {self.model} are right"
        return Fault(
            f"the judge's endpoint answers HTTP {status}{said}",
            repeat=(status in WORTH_REPEATING or status >= 500) and code != "insufficient_quota",
            wait_s=retry_after_s(error.response.headers),
            unusable=(status in UNUSABLE and not self._was_read) or code == "insufficient_quota",
        )

    def _wait_s(self, waits: int) -> float:
        wait_s = self._limits.first_wait_s * 2.0**waits * random.uniform(0.5, 1.5)
        return min(wait_s, self._limits.longest_wait_s)

    def _clean(self, text: str, limit: int) -> str:
        return one_line(self._without_key(text), limit)

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "[key]") if len(self._key) >= SHORTEST_SECRET else text

    def _answer(self, run: int, replies: Sequence[Reply], **outcome: Any) -> Answer:
        return Answer(
            run=run,
            replies=tuple(self._without_key(reply.text)[:LONGEST_KEPT_REPLY] for reply in replies),
            tokens_in=sum(reply.tokens_in for reply in replies),
            tokens_out=sum(reply.tokens_out for reply in replies),
            **outcome,
        )


def request_messages(question: Question) -> list[dict[str, Any]]:
    """The official message list: one user message, pictures first, the text last, no system message."""
    pictures = [
        {
            "type": "image_url",
            "image_url": {"url": f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode('ascii')}"},
        }
        for jpeg in question.jpegs
    ]
    return [{"role": "user", "content": [*pictures, {"type": "text", "text": question.instruction}]}]


def read_reply(body: bytes, *, parts: bool = False) -> Reply:
    """The text and token counts of a chat completion; a `Fault` with the server's words for anything else.

    A refusal counts as a reply: it is asked again, and kept. `parts`: a content that is a list of texts is
    joined; the official script cannot use one.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise _unreadable(_not_json(body), body) from None
    error = content.get("error") if isinstance(content, dict) else None
    if error:
        words = error.get("message") if isinstance(error, dict) else error
        raise _unreadable("is an error", str(words or error).encode())
    choices = content.get("choices") if isinstance(content, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise _unreadable("holds no choice", body)
    message = choices[0].get("message")
    message = message if isinstance(message, dict) else {}
    text = message.get("content") or message.get("refusal")
    in_parts = False
    if parts and isinstance(text, list):
        in_parts = True
        # Thoughts are parts of another type.
        texts = [part.get("text") for part in text if isinstance(part, dict) and part.get("type") == "text"]
        text = "".join(part for part in texts if isinstance(part, str)) or None
    if not isinstance(text, str):
        raise _unreadable("holds no text", body)
    usage = content.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return Reply(
        text=text,
        in_parts=in_parts,
        tokens_in=_count(usage.get("prompt_tokens")),
        tokens_out=_count(usage.get("completion_tokens")),
    )


def _not_json(body: bytes) -> str:
    """What an answer is that is no JSON, with the remedy where there is one."""
    begin = body[:200].lstrip().lower()
    if begin.startswith(b"<"):
        return "is a web page or XML (is --judge-url the API's address, mostly ending in /v1?)"
    if begin.startswith((b"data:", b"event:", b":")):
        return "is a stream of events (the endpoint ignores stream=false)"
    return "is no JSON"


def _unreadable(what: str, words: bytes) -> Fault:
    said = words.decode(errors="replace").strip()
    reason = f"the judge's answer {what}{': ' if said else ''}{said}"
    return Fault(reason, readable=False, perhaps_charged=True)


def retry_after_s(headers: Any) -> float | None:
    """Seconds that a Retry-After header asks for (a number or an HTTP date), 0 or more; None without one."""
    given = headers.get("retry-after")
    if given is None:
        return None
    try:
        seconds = float(given)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(given).timestamp() - time.time()
        except ValueError:
            return None
    return max(seconds, 0.0) if seconds == seconds else None


def _count(tokens: object) -> int:
    if not isinstance(tokens, int) or isinstance(tokens, bool):
        return 0
    return min(max(tokens, 0), LARGEST_TOKEN_COUNT)


class _AnswerTooLong(Exception):
    """The endpoint's answer is too long, or compressed, so that it could become so."""


async def _cap_answer(response: Any) -> None:
    """Response hook: stops reading a body, of whatever status, once it is longer than the limit."""
    if response.headers.get("content-encoding", "").strip().lower() not in ("", "identity"):
        raise _AnswerTooLong("the judge's answer is compressed, which was not asked for")
    response.stream = _capped_stream_class()(response.stream)


@cache
def _capped_stream_class() -> Any:
    import openai

    # The openai package is built on httpx, since its third generation on httpx2: take whichever it uses.
    client_class = openai.DefaultAsyncHttpxClient.__mro__[1]
    http_library = importlib.import_module(client_class.__module__.partition(".")[0])

    class CappedStream(http_library.AsyncByteStream):  # type: ignore[name-defined]
        """A body that raises once it is longer than an answer can be."""

        def __init__(self, stream: Any) -> None:
            self._stream = stream

        async def __aiter__(self) -> AsyncIterator[bytes]:
            length = 0
            async for chunk in self._stream:
                length += len(chunk)
                if length > LARGEST_ANSWER_BYTES:
                    raise _AnswerTooLong(f"the judge's answer is longer than {LARGEST_ANSWER_BYTES:,} bytes")
                yield chunk

        async def aclose(self) -> None:
            await self._stream.aclose()

    return CappedStream
