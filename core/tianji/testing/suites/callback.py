"""`CallbackSuite`: what every callback must do.

    class TestWebhook(CallbackSuite):
        plugin = Webhook
        settings = {"url": "https://hooks.example.invalid/in", "token": "canary"}

What the callback sends is answered by the fake gateway with 200 and `{}`; script something else in `make_gateway`. The
tests about failing peers switch on when the callback was seen to send something.
"""

from __future__ import annotations

import copy
import gc
import gzip
import sys
import traceback
import zlib
from collections.abc import Sequence
from typing import Any

import pytest

from tianji.model import Cost, Record, Usage
from tianji.plugin import Callback
from tianji.testing.builders import make_attempt, make_record
from tianji.testing.fakes import Answer, FakeGateway, Sent
from tianji.testing.purity import captured_logs
from tianji.testing.suites.base import Suite, assert_unseen, start, stop

PROMPT, REPLY = "the-prompt-of-the-call", "the-reply-to-the-call"
_NOTHING: dict[str, Any] = dict.fromkeys(
    (
        "error", "key_alias", "user_id", "team_id", "org_id", "end_user", "usage", "cost", "time_to_first_token",
        "request", "response",
    )
)  # fmt: skip


class CallbackSuite(Suite):
    """Subclass it with `plugin` and `settings`. Give secret settings values that occur nowhere else."""

    family = "callbacks"
    plugin: type[Callback]

    def make_gateway(self) -> FakeGateway:
        gateway = FakeGateway()
        gateway.handler = lambda sent: Answer()
        return gateway

    async def export(self, records: Sequence[Record], gateway: FakeGateway | None = None) -> list[Sent]:
        """Start a fresh callback, let it export one batch, stop it; what it sent meanwhile."""
        gateway = gateway or self.make_gateway()
        callback = self.make_plugin(gateway)
        await start(callback, gateway)
        try:
            result = await callback.export(records)
            assert result is None, "export returns nothing; it raises when it did not work"
        finally:
            await stop(callback, gateway)
        return gateway.requests

    # -- batches -------------------------------------------------------------------------------------------------------

    @pytest.mark.asyncio
    @pytest.mark.parametrize("size", [1, 2, 100])
    async def test_batch(self, size: int) -> None:
        """`export` cannot deliver a batch of this size.

        Batches have 1 to 512 records. One request for each record is slow; use the peer's batch format if it has one.
        """
        await self.export([make_record(id=f"call-{n}", call_id=f"call-{n}") for n in range(size)])

    @pytest.mark.asyncio
    @pytest.mark.parametrize("kind", ["bare", "failure", "partial", "cancelled", "stream", "unknown price", "odd text"])
    async def test_every_kind_of_record(self, kind: str) -> None:
        """`export` fails on a record that the gateway does produce, so the whole batch would be lost.

        All fields typed `| None` can be None, most of all `usage`, `cost` and `cost.nano`; an unknown price is not 0.
        """
        await self.export([make_record(), _record(kind), make_record()])

    @pytest.mark.asyncio
    async def test_records_are_not_changed_or_kept(self) -> None:
        """A record was changed, or something still refers to it after `export` returned: memory grows with every call.

        Other callbacks get the same records. Send, then forget; batching and retrying are the kernel's.
        """
        gateway = self.make_gateway()
        callback = self.make_plugin(gateway)
        await start(callback, gateway)
        records = [make_record(id=f"call-{n}", metadata={"n": n}) for n in range(3)]
        before = copy.deepcopy([record.metadata for record in records])
        known = [sys.getrefcount(records[n]) for n in range(len(records))]
        await callback.export(records)
        gc.collect()
        assert [record.metadata for record in records] == before
        kept = [records[n].id for n in range(len(records)) if sys.getrefcount(records[n]) > known[n]]
        await stop(callback, gateway)
        assert not kept, f"still referred to after export: {kept}"

    # -- content -------------------------------------------------------------------------------------------------------

    @pytest.mark.asyncio
    async def test_content_only_where_wanted(self) -> None:
        """Prompts leave the gateway although `wants_content` is off, or they are wanted and not sent.

        The kernel keeps content only for callbacks that want it, and only if the operator lets it be logged. Declare
        `wants_content = True` and send `record.request` and `record.response`, or do neither.
        """
        assert type(self.plugin.wants_content) is bool
        full = make_record(
            request={"model": "m", "messages": [{"role": "user", "content": PROMPT}]},
            response=b'{"choices": [{"message": {"role": "assistant", "content": "%b"}}]}' % REPLY.encode(),
        )
        sent = await self.export([full])
        if not sent:
            pytest.skip("it sends nothing over HTTP")
        said = "".join(readable(request) for request in sent)
        assert (PROMPT in said) is self.plugin.wants_content
        assert REPLY not in said or self.plugin.wants_content

    # -- failures ------------------------------------------------------------------------------------------------------

    @pytest.mark.asyncio
    @pytest.mark.parametrize("fault", [400, 401, 429, 500, 503, "refused connection", "time-out"])
    async def test_a_failed_peer_is_an_exception(self, fault: int | str) -> None:
        """The peer refused the batch, and `export` returned as if it had worked: the records are lost.

        Raise (`raise_for_status()`), and do not retry: the kernel retries, backs off and opens the circuit.
        """
        if not await self.export([make_record()]):
            pytest.skip("it sends nothing over HTTP")
        gateway = self.make_gateway()
        gateway.handler = _failing(fault)
        with captured_logs() as lines:
            try:
                await self.export([make_record()], gateway)
            except AssertionError:
                raise
            except Exception as error:  # noqa: BLE001 - any exception tells the kernel
                told = "".join(traceback.format_exception_only(error))
            else:
                raise AssertionError(f"export returned although the peer answered: {fault}")
        assert len(gateway.requests) <= 1, "export retried by itself"
        assert_unseen(self.secret_values(), told, *lines)

    @pytest.mark.asyncio
    async def test_credentials_stay_out_of_urls(self) -> None:
        """A secret of the settings is in a URL, where every proxy on the way logs it.

        Send it in a header. Where the whole URL is the secret (an incoming webhook), type the setting `Secret`, and
        mark this test xfail with that reason.
        """
        for request in await self.export([make_record()]):
            assert_unseen(self.secret_values(), request.url)


def readable(request: Sent) -> str:
    """A request's body as text, unpacked where it was compressed."""
    coding = request.headers.get("content-encoding", "")
    body = request.body
    if coding == "gzip":
        body = gzip.decompress(body)
    elif coding == "deflate":
        body = zlib.decompress(body)
    return body.decode("utf-8", "replace")


def _failing(fault: int | str) -> Any:
    def handler(sent: Sent) -> Answer:
        if fault == "refused connection":
            raise ConnectionRefusedError("connection refused")
        if fault == "time-out":
            raise TimeoutError("timed out")
        return Answer(int(fault), b'{"error": "no"}')

    return handler


def _record(kind: str) -> Record:
    """One finished call of a kind."""
    error = {"class": "Throttled", "status": 429, "message": "slow down", "type": "throttling_error", "code": "429"}
    failed = make_attempt(outcome="Throttled", status=429, usage=None, message="slow down")
    kinds: dict[str, dict[str, Any]] = {
        "bare": {**_NOTHING, "attempts": (), "tags": (), "metadata": {}, "provider": "", "deployment_id": ""},
        "failure": {"status": "failure", "http_status": 429, "error": error, "attempts": (failed,), "cost": None},
        "partial": {"status": "partial", "stream": True, "usage": Usage(10, 3, estimated=True), "error": error},
        "cancelled": {"status": "cancelled", "http_status": 499, "stream": True, "response": None},
        "stream": {"stream": True, "time_to_first_token": 0.1, "attempts": (failed, make_attempt(number=2))},
        "unknown price": {"cost": Cost(None)},
        "odd text": {
            "metadata": {"quote": '"\\\n\u2028', "nested": {"list": [1, None, True, 1.5]}, "": "\x00"},
            "tags": ("a,b", "c=d", "ü🌉"),
            "model": "group/with spaces?&=#",
            "end_user": "x" * 5000,
        },
    }
    return make_record(**kinds[kind])
