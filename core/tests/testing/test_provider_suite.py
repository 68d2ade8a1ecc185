"""The provider suite passes for sound providers and fails for each fault that it is there to find."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from tianji import END, Decoder, HTTPProvider, Op, OpenAICompatible, PluginSettings, Wire, chunk, completion
from tianji.errors import Failure, ProtocolError, Rejected
from tianji.model import Call, Deployment, Event, Usage
from tianji.testing import ProviderSuite
from tianji.testing.goldens import Golden, parse_golden

Run = Callable[[type[Any]], dict[str, str]]


class Plain(OpenAICompatible):
    """A sound provider that is nothing but attributes.

    Docs: https://docs.example.invalid/plain
    """

    name = "plain"
    base_url = "https://api.example.invalid/v1"
    api_key_env = ("PLAIN_API_KEY",)
    ops = frozenset({Op.CHAT, Op.COMPLETIONS, Op.EMBEDDINGS})
    drop = frozenset({"temperature"})
    rename = {"max_tokens": "max_new_tokens"}
    auth = "header:x-plain-key"


class Own(HTTPProvider):
    """A sound provider with a wire format of its own.

    Docs: https://docs.example.invalid/own
    """

    name = "own"
    base_url = "https://api.example.invalid/v2"
    api_key_env = ("OWN_API_KEY",)
    native = frozenset[str]()
    framing = "json-lines"

    class Settings(PluginSettings, frozen=True):
        version: str = "1"
        """Sent as `x-version`."""

    def own_headers(self, deployment: Deployment) -> dict[str, str]:
        return {"x-version": deployment.settings.version}

    def encode(self, call: Call, deployment: Deployment) -> Wire:
        if "logprobs" in call.body:
            call.drop("logprobs")
        body = {"model": deployment.model, "turns": call.body.get("messages", []), "live": call.stream}
        return Wire(f"{self.base(deployment)}/talk", self.request_headers(deployment), body)

    def decode(self, call: Call, data: Any) -> dict[str, Any]:
        text = data.get("text")
        if not isinstance(text, str):
            raise ProtocolError("no text")
        usage = Usage(data.get("in_tokens") or 0, data.get("out_tokens") or 0)
        return completion(
            id=f"own-{call.id}", model="own", message={"content": text}, finish_reason="stop", usage=usage
        )

    def decoder(self, call: Call) -> Decoder:
        chunks: list[dict[str, Any]] = []
        while True:
            event: Event = yield chunks
            data = event.data if isinstance(event.data, dict) else {}
            chunks = []
            if isinstance(data.get("piece"), str):
                chunks = [chunk({"content": data["piece"]}, id="own")]
            elif data.get("done"):
                chunks = [chunk({}, "stop", usage=Usage(data.get("in_tokens") or 0, data.get("out_tokens") or 0))]


MESSAGES = [{"role": "user", "content": "Hi"}]
OWN_GOLDENS = [
    parse_golden(
        "chat",
        {
            "source": "docs:https://docs.example.invalid/own",
            "call": {"body": {"model": "m", "messages": MESSAGES, "logprobs": True}},
            "deployment": {"model": "up", "settings": {"version": "2"}},
            "request": {
                "url": "https://api.example.invalid/v2/talk",
                "headers": {"X-Version": "2"},
                "body": {"model": "up", "turns": MESSAGES, "live": False},
            },
            "upstream": {"body": {"text": "Hello.", "in_tokens": 4, "out_tokens": 2}},
            "reply": {"text": "Hello.", "finish_reason": "stop", "tool_calls": []},
            "dropped": ["logprobs"],
        },
    ),
    parse_golden(
        "chat-stream",
        {
            "source": "docs:https://docs.example.invalid/own",
            "call": {"body": {"model": "m", "messages": MESSAGES, "stream": True}},
            "deployment": {"model": "up"},
            "request": {
                "url": "https://api.example.invalid/v2/talk",
                "body": {"model": "up", "turns": MESSAGES, "live": True},
            },
            "upstream": {
                "frames": [
                    '{"piece": "Gr\\u00fc"}\n',
                    '{"piece": "ß"}\n',
                    '{"done": true, "in_tokens": 4, "out_tokens": 2}\n',
                ]
            },
            "reply": {"text": "Grüß", "usage": {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6}},
        },
    ),
]  # fmt: skip


class TestPlain(ProviderSuite):
    plugin = Plain


class OwnSuite(ProviderSuite):
    plugin: Any = Own

    @classmethod
    def goldens(cls) -> list[Golden]:
        return OWN_GOLDENS


class TestOwn(OwnSuite):
    plugin = Own


def plain(**changes: Any) -> type[ProviderSuite]:
    """The suite for `Plain` with some attributes changed."""
    cls = type("Changed", (Plain,), {"__doc__": Plain.__doc__, "__module__": __name__, **changes})
    return type("Suite", (ProviderSuite,), {"plugin": cls, "__module__": __name__})


def own(**changes: Any) -> type[ProviderSuite]:
    cls = type("Changed", (Own,), {"__doc__": Own.__doc__, "__module__": __name__, **changes})
    return type("Suite", (OwnSuite,), {"plugin": cls, "__module__": __name__})


def test_sound_providers_pass(failed: Run) -> None:
    assert failed(plain()) == {}
    assert failed(own()) == {}


@pytest.mark.parametrize(
    ("attribute", "value", "test"),
    [
        ("__doc__", "No address.", "test_class_says_what_it_can_do"),
        ("name", "", "test_class_is_well_formed"),
        ("base_url", "http://api.example.invalid/v1", "test_class_says_what_it_can_do"),
        ("base_url", "", "test_class_says_what_it_can_do"),
        ("ops", frozenset(), "test_class_says_what_it_can_do"),
        ("api_key_env", ("PLAIN_API_KEY"), "test_class_says_what_it_can_do"),
        ("auth", "query:key", "test_class_says_what_it_can_do"),
        ("framing", "sse2", "test_class_says_what_it_can_do"),
        ("ops", frozenset({Op.CHAT, Op.RERANK}), "test_every_op_has_a_golden"),
    ],
)
def test_bad_attributes_are_found(failed: Run, attribute: str, value: Any, test: str) -> None:
    assert test in failed(plain(**{attribute: value}))


def test_overridden_hook_is_found(failed: Run) -> None:
    async def provider_call(self: Any, call: Call, deployment: Deployment) -> Any: ...

    assert "test_hooks_are_sealed_and_known" in failed(plain(provider_call=provider_call))


def test_unfrozen_and_undocumented_settings_are_found(failed: Run) -> None:
    class Undocumented(PluginSettings, frozen=True):
        api_version: str = "1"

    class Exposed(PluginSettings, frozen=True):
        client_secret: str = "x"
        """A credential that everyone can read."""

    class Fine(PluginSettings, frozen=True):
        api_version: str = "1"
        """Sent as it is."""

    found = [failed(plain(Settings=schema)) for schema in (Undocumented, Exposed, Fine)]
    assert ["test_settings_are_frozen_and_documented" in one for one in found] == [True, True, False]


def _mutates(self: Any, call: Call, deployment: Deployment) -> Wire:
    call.body["messages"].append({"role": "system", "content": "extra"})
    return Own.encode(self, call, deployment)


def _remembers(self: Any, call: Call, deployment: Deployment) -> Wire:
    self.count = getattr(self, "count", 0) + 1
    wire = Own.encode(self, call, deployment)
    return Wire(wire.url, wire.headers, {**wire.body, "n": self.count})  # type: ignore[dict-item]


def _reads_environment(self: Any, call: Call, deployment: Deployment) -> Wire:
    os.environ.get("REGION")
    return Own.encode(self, call, deployment)


def _reads_clock(self: Any, call: Call, deployment: Deployment) -> Wire:
    time.time()
    return Own.encode(self, call, deployment)


def _draws(self: Any, call: Call, deployment: Deployment) -> Wire:
    random.random()
    return Own.encode(self, call, deployment)


@pytest.mark.parametrize(
    ("encode", "why"),
    [
        (_mutates, "changed call.body"),
        (_remembers, "second encode"),
        (_reads_environment, "the environment"),
        (_reads_clock, "the clock"),
        (_draws, "a random number"),
    ],
)
def test_impure_encode_is_found(failed: Run, encode: Any, why: str) -> None:
    assert why in failed(own(encode=encode))["test_encode_is_pure"]


def test_wrong_request_is_found(failed: Run) -> None:
    def encode(self: Any, call: Call, deployment: Deployment) -> Wire:
        wire = Own.encode(self, call, deployment)
        return Wire(wire.url, wire.headers, {**wire.body, "surplus": None})  # type: ignore[dict-item]

    found = failed(own(encode=encode))
    assert set(found) == {"test_request_matches_golden"}


def test_undeclared_drop_is_found(failed: Run) -> None:
    def encode(self: Any, call: Call, deployment: Deployment) -> Wire:
        body = {"model": deployment.model, "turns": call.body.get("messages", []), "live": call.stream}
        return Wire(f"{self.base(deployment)}/talk", self.request_headers(deployment), body)

    assert "test_request_matches_golden" in failed(own(encode=encode))


def test_key_in_url_is_found(failed: Run) -> None:
    def encode(self: Any, call: Call, deployment: Deployment) -> Wire:
        wire = Own.encode(self, call, deployment)
        return Wire(f"{wire.url}?key={deployment.api_key.reveal()}", wire.headers, wire.body)  # type: ignore[union-attr]

    assert "test_key_is_not_seen" in failed(own(encode=encode))


def test_shared_credentials_are_found(failed: Run) -> None:
    def request_headers(self: Any, deployment: Deployment) -> Any:
        self.kept = getattr(self, "kept", None) or Own.request_headers(self, deployment)
        return self.kept

    found = failed(own(request_headers=request_headers))
    assert "one deployment's key went to another" in found["test_deployment_says_where_and_how"]


def test_fixed_address_is_found(failed: Run) -> None:
    def url(self: Any, call: Call, deployment: Deployment) -> str:
        return f"{self.base_url}{self.paths[call.op]}"

    assert "api_base" in failed(plain(url=url))["test_deployment_says_where_and_how"]


def test_closed_request_body_is_found(failed: Run) -> None:
    def request_body(self: Any, call: Call, deployment: Deployment) -> dict[str, Any]:
        return {"model": deployment.model, "messages": call.body.get("messages"), "stream": call.stream}

    found = failed(plain(request_body=request_body))
    assert {"test_unknown_fields_pass_through", "test_deployment_defaults_and_drops"} <= found.keys()


def test_missing_stream_usage_is_found(failed: Run) -> None:
    def decoder(self: Any, call: Call) -> Decoder:
        inner = Own.decoder(self, call)
        event = yield next(inner)
        while True:
            event = yield [{k: v for k, v in one.items() if k != "usage"} for one in inner.send(event)]

    found = failed(own(decoder=decoder))
    assert {"test_usage_is_reported", "test_reply_matches_golden"} == found.keys()


def test_state_on_the_instance_is_found(failed: Run) -> None:
    def decoder(self: Any, call: Call) -> Decoder:
        self.seen = 0
        chunks: list[dict[str, Any]] = []
        while True:
            event = yield chunks
            self.seen += 1
            data = event.data if isinstance(event.data, dict) else {}
            piece = data.get("piece")
            chunks = [chunk({"content": piece}, id=str(self.seen))] if piece else []
            if data.get("done"):
                chunks = [chunk({}, "stop", usage=Usage(4, 2))]

    assert set(failed(own(decoder=decoder))) == {"test_streams_do_not_disturb_each_other"}


def test_fragile_decoder_is_found(failed: Run) -> None:
    def decoder(self: Any, call: Call) -> Decoder:
        chunks: list[dict[str, Any]] = []
        while True:
            event = yield chunks
            if event is END:
                return
            if event.data.get("done"):
                chunks = [chunk({}, "stop", usage=Usage(event.data["in_tokens"], event.data["out_tokens"]))]
            else:
                chunks = [chunk({"content": event.data["piece"]}, id="own")]

    found = failed(own(decoder=decoder))
    assert set(found) == {"test_decoder_survives_garbage"}
    assert "AttributeError" in found["test_decoder_survives_garbage"]


def test_early_return_of_a_decoder_is_found(failed: Run) -> None:
    def decoder(self: Any, call: Call) -> Decoder:
        inner = Own.decoder(self, call)
        event = yield next(inner)
        while not (isinstance(event.data, dict) and event.data.get("done")):
            event = yield inner.send(event)

    assert "until END" in failed(own(decoder=decoder))["test_reply_matches_golden"]


def test_fragile_decode_is_found(failed: Run) -> None:
    def decode(self: Any, call: Call, data: Any) -> dict[str, Any]:
        usage = Usage(data["in_tokens"], data["out_tokens"])
        return completion(id="x", model="own", message={"content": data["text"]}, finish_reason="stop", usage=usage)

    assert "test_decode_survives_garbage" in failed(own(decode=decode))


def test_impure_decode_is_found(failed: Run) -> None:
    def decode(self: Any, call: Call, data: Any) -> dict[str, Any]:
        return {**Own.decode(self, call, data), "created": int(time.time())}

    assert "the clock" in failed(own(decode=decode))["test_answers_are_decoded_purely"]


def test_falsely_native_is_found(failed: Run) -> None:
    assert "test_what_is_forwarded_needs_no_decoding" in failed(own(native=frozenset({"openai-chat"})))

    def decode(self: Any, call: Call, data: Any) -> dict[str, Any]:
        return {**Plain.decode(self, call, data), "touched": True}

    found = failed(plain(decode=decode, rewrites=lambda self, call: False))
    assert "test_what_is_forwarded_needs_no_decoding" in found


def test_malformed_answers_are_found(failed: Run) -> None:
    def decode(self: Any, call: Call, data: Any) -> dict[str, Any]:
        body = Own.decode(self, call, data)
        del body["choices"][0]["finish_reason"]
        return body

    assert {"test_answers_are_well_formed", "test_reply_matches_golden"} == failed(own(decode=decode)).keys()


def _wrong_class(self: Any, status: int, data: Any) -> Failure:
    return Rejected("no", status=status)


def _shape_of_one(self: Any, status: int, data: Any) -> Failure:
    return Own.failure(self, status, data["error"]["message"])


def _html(self: Any, status: int, data: Any) -> Failure:
    failure = Own.failure(self, status, data)
    failure.message = str(data) or "empty"
    return failure


@pytest.mark.parametrize("failure", [_wrong_class, _shape_of_one, _html])
def test_bad_failures_are_found(failed: Run, failure: Any) -> None:
    assert "test_failures_have_the_right_class" in failed(own(failure=failure))


def test_own_format_without_goldens_is_found(failed: Run) -> None:
    suite = type("Suite", (ProviderSuite,), {"plugin": Own, "__module__": __name__})
    assert "test_every_op_has_a_golden" in failed(suite)
