"""Bedrock's errors as typed failures, from an answer's status or from the name of an exception inside a stream.

Docs: https://docs.aws.amazon.com/bedrock/latest/userguide/troubleshooting-api-error-codes.html
"""

from typing import Any

from tianji import (
    BadCredentials,
    ContentPolicy,
    ContextWindow,
    Failure,
    ProtocolError,
    Throttled,
    Unavailable,
    UpstreamNotFound,
    classify,
    error_fields,
)

from .shapes import an_object

STATUS = {
    "accessdenied": 403, "expiredtoken": 403, "unrecognizedclient": 403, "invalidsignature": 403,
    "incompletesignature": 403, "validation": 400, "modelnotready": 429, "throttling": 429, "servicequotaexceeded": 429,
    "resourcenotfound": 404, "modeltimeout": 408, "modelerror": 424, "modelstreamerror": 424, "internalserver": 500,
    "internal": 500, "serviceunavailable": 503,
}  # fmt: skip
"""Exception (without `Exception`, in lower case) → status. In a stream the name is all there is."""

_KEY = ("security token", "signature", "api key", "bearer token", "authentication", "credential should be")
"""Said with a 401 or 403 about the credentials themselves, not about what they are allowed to do."""
_BAD_SIGNATURE = ("request signature", "signature expired", "credential should be", "not a valid key=value pair")
"""The same with a 400, where a model's own complaints (about the signature of its thinking) come as well."""
_BUSY = ("too many requests", "too many connections", "too many tokens", "throttl", "rate exceeded", "reached capacity")
_TOO_LONG = ("too many input tokens", "input length and `max_tokens` exceed", "input tokens exceed")
_FILTERED = ("content filtering policy", "blocked by content filter", "responsible ai")


class Malformed(ProtocolError):
    """The model wrote an answer or a tool call that cannot be read, and nothing else. Another try may go well.

    It is the model that stumbled over this request: the deployment is healthy, and stays in service for others.
    """

    cools_down = False


def is_exception(name: str) -> bool:
    """Whether a stream's event is an exception. Its name comes as `throttlingException`, or as a bare error code."""
    return name.lower().endswith(("exception", "error", "failure"))


def from_exception(name: str, data: Any) -> Failure:
    """The failure that an exception event stands for."""
    kind = name.lower().removesuffix("exception").removesuffix("error").removesuffix("failure")
    kind = kind if kind in STATUS else kind + "error"  # `modelStreamError` lost its own ending with the general one
    return read_failure(STATUS.get(kind, 500), data, name=name)


def read_failure(status: int, data: Any, *, name: str = "") -> Failure:
    """`{"message": …}`, or `{"Message": …}` from the layers in front of Bedrock, or whatever a proxy put in place."""
    fields = an_object(data)
    if "message" not in fields and isinstance(fields.get("Message"), str):
        data = {"message": fields["Message"]}
    message, code, kind = error_fields(data)
    message = message or f"Bedrock answered with {name or f'status {status}'}."
    code = code or name or None
    lowered = message.lower()
    if status == 424:  # the model itself failed; what it said with tells whether another try can help
        original = fields.get("originalStatusCode")
        if not isinstance(original, int) or not 400 <= original < 500 or original in (408, 424):
            return Unavailable(message, status=503, code=code or "model_error")
        status = original
    if status in (400, 401, 403) and any(phrase in lowered for phrase in (_BAD_SIGNATURE if status == 400 else _KEY)):
        return BadCredentials(message, code=code)
    if status in (500, 503) and any(phrase in lowered for phrase in _BUSY):
        return Throttled(message, code=code)  # some models' throttling comes as a 503
    if status == 400:
        if any(phrase in lowered for phrase in _TOO_LONG):
            return ContextWindow(message)
        if any(phrase in lowered for phrase in _FILTERED):
            return ContentPolicy(message)
        if "model identifier is invalid" in lowered:
            return UpstreamNotFound(message, code=code or "model_not_found")
    return classify(status, message, code=code, type=kind)
