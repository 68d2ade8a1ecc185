"""docs/reference/headers.md: headers and request fields that speak to the gateway, and the headers of its answers."""

from __future__ import annotations

import re

from tianji.identity import _HEADERS as CREDENTIALS
from tianji.server.ingress import _OWN_HEADERS, _REFUSED, OWN_FIELDS
from tools.audit.model import ROOT
from tools.docs.source import HEAD, joined, strings, table, tick

REQUEST = {
    "x-tianji-call-id": "An id of the client's own for the call (at most 128 of `A-Za-z0-9._:-`); comes back, and is "
    "in the record.",
    "x-tianji-strict": "`1`: refuse with 422 where a field cannot be carried to the chosen provider, in place of "
    "leaving it out.",
    "x-tianji-timing": "`1`: answer with `server-timing`, one entry for each stage and plugin.",
    "x-tianji-explain": "`1`, from an administrator: answer with a header of the same name that tells how the call was "
    "routed; see [explain a request](../how-to/explain-a-request.md). Ignored from others.",
    "x-tianji-seed": "From an administrator: what the call's dice are thrown from, a whole number below 2^64; the same "
    "one gives the same routes again. Ignored from others.",
    "x-tianji-timeout": "Seconds for the call.",
    "x-tianji-num-retries": "Attempts after the first; at most 10.",
    "x-tianji-tags": "Tags for the record, separated by commas.",
    "x-tianji-stream-timeout": "Accepted, and without effect yet.",
}
"""By name; each is understood with `x-litellm-`, too, but for those in `OURS`."""
OURS = frozenset({"x-tianji-strict", "x-tianji-timing", "x-tianji-explain", "x-tianji-seed"})
PLAIN = {
    "traceparent": "W3C trace context; in the record.",
    "cache-control": "`no-cache`, `no-store`, `s-maxage`: for the response cache, where one is installed.",
    "anthropic-version": "Passed on to Anthropic by clients of `/v1/messages`; so is `anthropic-beta`.",
    "content-encoding": "Compressed request bodies are refused with 415.",
}
FIELDS = {
    "num_retries": "Attempts after the first; at most 10.",
    "timeout": "Seconds for the call. Also `request_timeout`.",
    "fallbacks": "Model groups to try when the one that is asked for cannot answer, in place of the configured ones.",
    "disable_fallbacks": "`true`: try no other group.",
    "guardrails": "Names of guardrails to check this call with, beside those that are always on.",
    "tags": "Tags for the record; also in `metadata.tags`.",
    "metadata": "Passed on as far as its values are texts; all of it is in the record.",
    "tianji_metadata": "Metadata for the record alone. Also `litellm_metadata`.",
    "cache": "For the response cache, where one is installed: `no-cache`, `no-store`, `ttl`, `s-maxage`, `namespace`, "
    "`use-cache`.",
    "caching": "`false`: leave the response cache out.",
}
RESPONSE = {
    "x-request-id": "The call's id; errors and log lines carry it.",
    "x-tianji-call-id": "The client's own id of the call, else the same.",
    "x-tianji-version": "Of the kernel.",
    "x-tianji-model-id": "The deployment that answered.",
    "x-tianji-model-group": "Its model group: another than was asked for after a fallback.",
    "x-tianji-model-name": "`provider/model` of the deployment.",
    "x-tianji-model-api-base": "Its address, where one is configured.",
    "x-tianji-response-cost": "Dollars, of a whole answer whose price is known; a stream's cost is known at its end, "
    "and is in the record. `0` from the cache.",
    "x-tianji-price": "`unknown`: the answer has a cost that nobody knows. It is not 0.",
    "x-tianji-key-spend": "Dollars that the caller's key has spent since this process started, this answer included "
    "where its cost is known.",
    "x-tianji-attempted-retries": "Attempts beyond the first and beyond fallbacks.",
    "x-tianji-attempted-fallbacks": "Other groups that were tried.",
    "x-tianji-response-duration-ms": "From the request's arrival to the headers.",
    "x-tianji-overhead-duration-ms": "The gateway's own part of that.",
    "x-tianji-dropped": "Request fields that could not be carried to the provider and were left out.",
    "x-tianji-applied-guardrails": "Guardrails that checked the call.",
    "x-tianji-estimated": "`true`: a token count is the gateway's estimate, because the provider does not count.",
    "x-should-retry": "Errors: whether the same request may succeed later. OpenAI's and Anthropic's SDKs obey it.",
    "retry-after": "Errors: seconds until a retry can help; `retry-after-ms` says it in milliseconds.",
    "x-tianji-explain": "When `x-tianji-explain: 1` was sent: seed, routes and attempts as compact JSON, at most "
    "6 KiB; `truncated` where something had to be left out. A stream's is from when its headers went out.",
    "server-timing": "When `x-tianji-timing: 1` was sent.",
    "llm_provider-x-request-id": "The provider's own request id (`llm_provider-request-id` where it calls it so). With "
    "a configuration in LiteLLM's spelling, every header of the provider is repeated as `llm_provider-<name>`.",
    "x-ratelimit-*": "The provider's own, passed on; so are `openai-*` and `anthropic-ratelimit-*`.",
}
BY_PLUGINS = {
    "x-cache": "`cache-memory`: `HIT` for an answer from the cache, with `age`.",
    "x-tianji-cache-key": "`cache-memory`: what the answer is kept under.",
}
_NAME = re.compile(r"x-tianji-[a-z-]*[a-z]")


def page() -> str:
    check()
    own = [
        (tick(name), "" if name in OURS else tick(name.replace("tianji", "litellm")), what)
        for name, what in REQUEST.items()
    ]
    unread = sorted(OWN_FIELDS - FIELDS.keys() - {"request_timeout", "litellm_metadata"})
    keys = ", ".join(tick(name.decode()) for name in CREDENTIALS)
    return joined(
        [
            "# Headers",
            HEAD,
            "## Requests",
            f"The key is looked for in these headers, in this order: {keys}. `authorization` may say `Bearer` before "
            "it. A `general_settings.tianji_key_header_name` comes before all of them.",
            table(("header", "also", "meaning"), own),
            table(("header", "meaning"), [(tick(name), what) for name, what in PLAIN.items()]),
            "### Fields of the body",
            "These members of a request body speak to the gateway. All but `metadata` are taken out before anybody "
            "else sees the body.",
            table(("field", "meaning"), [(tick(name), what) for name, what in FIELDS.items()]),
            f"Taken out, and without effect yet: {', '.join(map(tick, unread))}.",
            "Refused with 400, because where requests go is the operator's to say: "
            f"{', '.join(map(tick, sorted(_REFUSED)))}.",
            "## Answers",
            "A configuration in LiteLLM's spelling gets each `x-tianji-` header a second time as `x-litellm-`.",
            table(("header", "meaning"), [(tick(name), what) for name, what in RESPONSE.items()]),
            "Added by plugins:",
            table(("header", "meaning"), [(tick(name), what) for name, what in BY_PLUGINS.items()]),
        ]
    )


def check() -> None:
    """`LookupError` where the code has a header that is not explained, or this page one that the code does not have."""
    own = {name.decode().replace("x-litellm-", "x-tianji-") for name in _OWN_HEADERS}
    if own != REQUEST.keys():
        raise LookupError(
            f"request headers differ from tools/docs/headers.py: {', '.join(sorted(own ^ REQUEST.keys()))}"
        )
    written = {name for text in strings(ROOT / "core" / "tianji" / "server") for name in _NAME.findall(text)}
    written |= {name for text in strings(ROOT / "plugins") for name in _NAME.findall(text) if _is_code(text)}
    told = {name for name in (*REQUEST, *RESPONSE, *BY_PLUGINS) if name.startswith("x-tianji-")}
    if missing := written - told:
        raise LookupError(f"not explained in tools/docs/headers.py: {', '.join(sorted(missing))}")
    if gone := {name for name in RESPONSE if name.startswith("x-tianji-")} - written:
        raise LookupError(f"no code sends {', '.join(sorted(gone))}: mend tools/docs/headers.py")
    if gone := FIELDS.keys() - OWN_FIELDS - {"metadata"}:
        raise LookupError(f"no request field {', '.join(sorted(gone))}: mend tools/docs/headers.py")


def _is_code(text: str) -> bool:
    return _NAME.fullmatch(text) is not None
