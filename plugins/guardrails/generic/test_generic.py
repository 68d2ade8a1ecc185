"""The conformance suite in both formats, the two wire formats, and real sockets."""

from typing import Any

import pytest
from tianji_guardrail_generic import Generic, NoVerdict, Unreachable

from tianji import Blocked, ConfigError, Content, Failure, Secret, Timeout, Unavailable
from tianji.testing import Answer, FakeGateway, GuardrailSuite, Upstream, make_call, make_plugin, make_principal
from tianji.testing.gateway import gateway as running_gateway

BASE = "https://guard.example.invalid"


def make(gateway: Any, **settings: Any) -> Generic:
    return make_plugin(Generic, {"api_base": BASE, **settings}, instance="guard", gateway=gateway)


def litellm_service(sent: Any) -> Answer:
    """Blocks `wicked`, turns `Ada` into `[NAME]`."""
    body = sent.json()
    texts = body["texts"]
    if any("wicked" in text for text in texts):
        return Answer(200, b'{"action": "BLOCKED", "blocked_reason": "wicked words"}')
    if any("Ada" in text for text in texts):
        new = [text.replace("Ada", "[NAME]") for text in texts]
        return Answer(200, b'{"action": "GUARDRAIL_INTERVENED", "texts": %b}' % repr(new).replace("'", '"').encode())
    return Answer(200, b'{"action": "NONE"}')


def simple_service(sent: Any) -> Answer:
    body = sent.json()
    text = body["prompt"] + body["response"]
    if "wicked" in text:
        return Answer(200, b'{"action": "block", "message": "wicked words"}')
    return Answer(200, b'{"action": "allow"}')


class TestLiteLLMFormat(GuardrailSuite):
    plugin = Generic
    settings = {"api_base": BASE, "api_key": "key-canary-7f", "headers": {"X-Tenant": "tenant-canary-9c"}}
    blocks = ("a wicked thing",)
    allows = ("a fine thing",)
    rewrites = {"ask Ada about it": "ask [NAME] about it"}

    def make_gateway(self) -> FakeGateway:
        gateway = FakeGateway()
        gateway.handler = litellm_service
        return gateway


class TestSimpleFormat(GuardrailSuite):
    plugin = Generic
    settings = {"endpoint": f"{BASE}/check", "format": "simple", "api_key": "key-canary-7f"}
    blocks = ("a wicked thing",)
    allows = ("a fine thing",)

    def make_gateway(self) -> FakeGateway:
        gateway = FakeGateway()
        gateway.handler = simple_service
        return gateway


async def test_what_is_sent_in_the_litellm_format() -> None:
    gateway = FakeGateway()
    gateway.answer(body={"action": "NONE"})
    gateway.answer(body={"action": "NONE"})
    guard = make(gateway, api_key="k", headers={"X-Team": "t"}, additional_provider_specific_params={"threshold": 0.5})
    tools = [{"type": "function", "function": {"name": "f"}}]
    caller = make_principal(key_hash="h", alias="a", user_id="u", team_id=None, org_id="o")
    call = make_call({"model": "m", "messages": [], "tools": tools}, principal=caller)
    await guard.check(Content("prompt", ("one", "two")), call)
    await guard.check(Content("reply", ("three",)), call)
    request, response = gateway.requests
    assert request.url == f"{BASE}/beta/litellm_basic_guardrail_api"
    assert (request.method, request.headers["x-api-key"], request.headers["x-team"]) == ("POST", "k", "t")
    assert request.json() == {
        "texts": ["one", "two"],
        "tools": tools,
        "request_data": {
            "user_api_key_hash": "key-1",
            "user_api_key_alias": "a",
            "user_api_key_user_id": "u",
            "user_api_key_org_id": "o",
        },
        "input_type": "request",
        "litellm_call_id": "call-1",
        "litellm_trace_id": "call-1",
        "model": "m",
        "additional_provider_specific_params": {"threshold": 0.5},
    }
    assert response.json()["input_type"] == "response"
    assert "tools" not in response.json()


async def test_what_is_sent_in_the_simple_format() -> None:
    gateway = FakeGateway()
    gateway.answer(body={"action": "allow"})
    gateway.answer(body={"action": "allow", "modified_content": "better"})
    guard = make(gateway, format="simple")
    assert (await guard.check(Content("prompt", ("one", "two")), make_call())).action == "allow"
    verdict = await guard.check(Content("reply", ("first", "last")), make_call())
    assert verdict.texts == ("first", "better")
    assert gateway.requests[0].url == BASE, "nothing is added to the address"
    metadata = {"hook": "pre_call", "model": "test-model", "call_id": "call-1"}
    assert gateway.requests[0].json() == {"prompt": "one\ntwo", "response": "", "metadata": metadata}
    assert gateway.requests[1].json()["metadata"]["hook"] == "post_call"
    assert gateway.requests[1].json()["response"] == "first\nlast"


@pytest.mark.parametrize(
    "given", [BASE, f"{BASE}/", f"{BASE}/beta/litellm_basic_guardrail_api", f"{BASE}/beta/litellm_basic_guardrail_api/"]
)
def test_the_path_is_added_once(given: str) -> None:
    assert make(FakeGateway(), api_base=given).url.rstrip("/") == f"{BASE}/beta/litellm_basic_guardrail_api"


def test_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENERIC_GUARDRAIL_API_BASE", f"{BASE}/v2")
    monkeypatch.setenv("GENERIC_GUARDRAIL_API_KEY", "from-environment")
    guard = make(FakeGateway(), api_base=None)
    assert guard.url.startswith(f"{BASE}/v2/beta")
    assert guard._headers["x-api-key"] == "from-environment"


@pytest.mark.parametrize("settings", [{"api_base": None}, {"api_base": "guard:80"}, {"timeout": 0}])
def test_bad_settings_stop_the_start(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="guardrail guard"):
        make(FakeGateway(), **settings)


@pytest.mark.parametrize(
    ("form", "answer"),
    [
        ("litellm", {"action": "none"}),
        ("litellm", {"action": "GUARDRAIL_INTERVENED"}),
        ("litellm", {"action": "GUARDRAIL_INTERVENED", "texts": ["a", "b"]}),
        ("litellm", {"action": "GUARDRAIL_INTERVENED", "texts": [1]}),
        ("litellm", ["NONE"]),
        ("simple", {"action": "maybe"}),
        ("simple", {"action": "allow", "modified_content": 1}),
    ],
)
async def test_an_answer_that_makes_no_sense_is_no_verdict(form: str, answer: Any) -> None:
    gateway = FakeGateway()
    gateway.answer(body=answer)
    with pytest.raises(NoVerdict):
        await make(gateway, format=form).check(Content("prompt", ("x",)), make_call())


@pytest.mark.parametrize("failure", [Timeout("slow"), Unavailable("gone"), ConnectionRefusedError("no"), 502, 503, 504])
@pytest.mark.parametrize("fallback", ["fail_closed", "fail_open"])
async def test_unreachable(failure: Any, fallback: str) -> None:
    gateway = FakeGateway()
    gateway.answer(failure, b"") if isinstance(failure, int) else gateway.fail(failure)
    guard = make(gateway, unreachable_fallback=fallback)
    check = guard.check(Content("prompt", ("x",)), make_call())
    if fallback == "fail_open":
        assert (await check).action == "allow"
    else:
        with pytest.raises(Unreachable):
            await check


@pytest.mark.parametrize("status", [400, 401, 404, 500])
async def test_other_faults_are_not_unreachable(status: int) -> None:
    gateway = FakeGateway()
    gateway.answer(status, {"action": "NONE"})
    guard = make(gateway, unreachable_fallback="fail_open")
    with pytest.raises(NoVerdict, match=str(status)):
        await guard.check(Content("prompt", ("x",)), make_call())


async def test_over_the_kernels_own_transport() -> None:
    async with Upstream() as up, running_gateway({}) as gw:
        up.reply(json={"action": "NONE"}, times=1)
        up.reply(json={"action": "BLOCKED", "blocked_reason": "no"}, times=1)
        up.reply(status=500, json={"action": "NONE"})
        guard = make(gw.gateway, api_base=up.url, api_key=Secret("sent"))
        guard.default_on = True
        call = make_call()
        assert await guard.pre_call(call) is None
        with pytest.raises(Blocked, match="no"):
            await guard.pre_call(call)
        with pytest.raises(Failure) as caught:
            await guard.pre_call(call)
        assert caught.value.code == "guardrail_unavailable"
        guard.fail_open = True
        assert await guard.pre_call(call) is None
        assert [request.headers["x-api-key"] for request in up.requests] == ["sent"] * 4
        assert up.requests[0].path == "/beta/litellm_basic_guardrail_api"


async def test_a_service_that_is_down_obeys_the_failure_policy() -> None:
    async with Upstream() as up:
        url = up.url
    async with running_gateway({}) as gw:
        guard = make(gw.gateway, api_base=url)
        guard.default_on = True
        with pytest.raises(Failure) as caught:
            await guard.pre_call(make_call())
        assert caught.value.code == "guardrail_unavailable", "not the transport's own failure"
        guard.fail_open = True
        assert await guard.pre_call(make_call()) is None
