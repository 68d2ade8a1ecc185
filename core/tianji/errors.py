"""Every way in which a call can fail, drawn once.

    TianjiError
    ├── ConfigError                 the configuration cannot be used: path in the file, what is wrong, the mend
    ├── PluginError                 a distribution cannot be loaded: which one, which version, the mend
    └── Failure                     a call ended without an answer; knows its place on the wire
        ├── Refused                 the gateway said no: nothing was sent upstream
        │   ├── BadRequest          400  malformed JSON, a wrong type, a missing field
        │   │   ├── Unprocessable   422  `strict` was asked for and a field cannot be carried
        │   │   └── TooLarge        413  body over the limit
        │   ├── Unauthorized        401  no key, or a bad one
        │   ├── Forbidden           403  a key that may not do this
        │   ├── NotFound            404  no such path, model or object
        │   │   └── UnknownModel    404  with the near matches
        │   ├── MethodNotAllowed    405
        │   ├── Blocked             400  a guardrail said no
        │   ├── GuardrailUnavailable 503 a guardrail could not decide, and it protects
        │   ├── OverBudget          429  money is gone: retrying cannot help
        │   ├── RateLimited         429  too fast: retry later
        │   ├── Overloaded          503  a bounded queue is full
        │   ├── NoDeployment        429  every deployment of the group is cooling down
        │   └── Internal            500  a fault of ours or of an extension
        ├── UpstreamFailure         an attempt reached for a provider and got no answer
        │   ├── Rejected            400  the provider refused the request as malformed (its own 4xx is kept)
        │   │   ├── ContextWindow   400  `context_length_exceeded`
        │   │   └── ContentPolicy   400  `content_policy_violation`
        │   ├── BadCredentials      401  our key was refused
        │   ├── PermissionDenied    403
        │   ├── UpstreamNotFound    404
        │   ├── Throttled           429  with `retry_after` where the provider said
        │   ├── Timeout             408  one of the five clocks ran out
        │   ├── Unavailable         5xx  the provider's own error, or no connection
        │   └── ProtocolError       502  bytes that are not what the provider documents, or a stream cut short
        └── ClientGone              499  nobody is left to read the answer

Statuses, types and codes follow what LiteLLM answers where a client can depend on them
(https://docs.litellm.ai/docs/exception_mapping), in OpenAI's envelope
(https://platform.openai.com/docs/guides/error-codes).
"""

from __future__ import annotations

from typing import Any, ClassVar


class TianjiError(Exception):
    """Base of everything that Tianji raises on purpose."""


class ConfigError(TianjiError):
    """The configuration cannot be used.

    `path` is where (`model_list[0].tianji_params.model`, or `file.yaml:12`), `mend` the change that helps.
    """

    def __init__(self, message: str, *, path: str = "", mend: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.path = path
        self.mend = mend

    def __str__(self) -> str:
        where = f"{self.path}: " if self.path else ""
        return f"{where}{self.message}{'. ' + self.mend if self.mend else ''}"


class PluginError(TianjiError):
    """A plugin cannot be found, loaded or used. The message names distribution, version and the mend."""


class Failure(TianjiError):
    """A call ended without an answer.

    Args:
        message: For the client: what happened and what to do. Never a secret, never a traceback.
        param: The request field at fault, as a path (`messages[0].content`).
        code: Overrides the class's `code`, for example with the provider's own.
        type: Overrides the class's error type.
        status: Overrides the class's HTTP status (a provider's 422 stays 422).
        retry_after: Seconds until a retry can help.
        provider, model: Which provider and deployment failed, where that is known.
        extra: Further members of the error object, for example a guardrail's findings.
    """

    status: int = 500
    type: str = "internal_server_error"
    code: str | None = None
    retryable: ClassVar[bool] = False
    """Another attempt, on this or another deployment, may succeed."""
    cools_down: ClassVar[bool] = False
    """Counts against the deployment that produced it."""
    falls_back: ClassVar[bool] = False
    """Another model group may be tried."""

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        type: str | None = None,
        status: int | None = None,
        retry_after: float | None = None,
        provider: str | None = None,
        model: str | None = None,
        headers: dict[str, str] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after
        self.provider = provider
        self.model = model
        self.headers = headers or {}
        self.extra = extra or {}
        if code is not None:
            self.code = code
        if type is not None:
            self.type = type
        if status is not None:
            self.status = status

    @property
    def should_retry(self) -> bool:
        """What `x-should-retry` says: whether the same request may succeed later."""
        return self.retryable

    def body(self) -> dict[str, Any]:
        """The error object in OpenAI's shape, without its envelope."""
        error: dict[str, Any] = {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code if self.code is not None else str(self.status),
        }
        if self.provider:
            error["llm_provider"] = self.provider
        if self.model:
            error["model"] = self.model
        error.update(self.extra)
        return error


class Refused(Failure):
    """The gateway said no; nothing was sent upstream."""

    status = 400
    type = "invalid_request_error"


class BadRequest(Refused):
    """The request is malformed; `param` names the field."""


class Unprocessable(BadRequest):
    """`x-tianji-strict: 1` was sent and a field cannot be carried to the chosen provider."""

    status = 422


class TooLarge(BadRequest):
    """A body, or a part of it, is over its limit."""

    status = 413
    code = "request_too_large"


class Unauthorized(Refused):
    """No credential, or a bad one."""

    status = 401
    type = "auth_error"
    code = "invalid_api_key"


class Forbidden(Refused):
    """A good credential that may not do this."""

    status = 403
    type = "permission_error"


class NotFound(Refused):
    """No such path or object."""

    status = 404


class UnknownModel(NotFound):
    """No model group of that name; the message lists the near matches."""

    code = "model_not_found"
    falls_back = True


class MethodNotAllowed(Refused):
    """The path exists, the method does not."""

    status = 405


class Blocked(Refused):
    """A guardrail refused the content."""

    code = "guardrail_blocked"


class GuardrailUnavailable(Refused):
    """A guardrail could not decide, and its failure policy is to refuse."""

    status = 503
    type = "guardrail_error"
    code = "guardrail_unavailable"
    retryable = True


class OverBudget(Refused):
    """A budget of the caller is used up. Never retried, never a fallback."""

    status = 429
    type = "budget_exceeded"
    code = "budget_exceeded"


class RateLimited(Refused):
    """A limit of the caller is reached."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"
    retryable = True


class Overloaded(Refused):
    """A bounded queue of the gateway is full."""

    status = 503
    type = "overloaded_error"
    code = "overloaded"
    retryable = True
    falls_back = True


class NoDeployment(Refused):
    """Deployments exist, and none of them may be used right now."""

    status = 429
    type = "all_deployments_in_cooldown"
    retryable = True
    falls_back = True


class Internal(Refused):
    """A fault of the gateway or of an extension. Details are in the log, under the call id."""

    status = 500
    type = "internal_server_error"


class UpstreamFailure(Failure):
    """An attempt reached for a provider and brought no answer back."""

    status = 500
    falls_back = True


class Rejected(UpstreamFailure):
    """The provider refused the request itself. The same request will fail there again."""

    status = 400
    type = "invalid_request_error"


class ContextWindow(Rejected):
    """The prompt does not fit the model."""

    code = "context_length_exceeded"


class ContentPolicy(Rejected):
    """The provider's own policy refused the content."""

    code = "content_policy_violation"


class BadCredentials(UpstreamFailure):
    """The provider refused the deployment's key."""

    status = 401
    type = "authentication_error"
    retryable = True  # another deployment may have a good key
    cools_down = True

    @property
    def should_retry(self) -> bool:
        return False


class PermissionDenied(UpstreamFailure):
    """The provider knows the key and forbids this."""

    status = 403
    type = "permission_error"


class UpstreamNotFound(UpstreamFailure):
    """The provider does not know the model, or the path."""

    status = 404
    type = "invalid_request_error"
    cools_down = True


class Throttled(UpstreamFailure):
    """The provider asks to slow down."""

    status = 429
    type = "throttling_error"
    retryable = True
    cools_down = True


class Timeout(UpstreamFailure):
    """One of the clocks ran out: connect, headers, first token, idle or total."""

    status = 408
    type = "timeout_error"
    code = "timeout"
    retryable = True
    cools_down = True


class Unavailable(UpstreamFailure):
    """The provider answered 5xx, or could not be reached."""

    status = 503
    type = "internal_server_error"
    retryable = True
    cools_down = True


class ProtocolError(UpstreamFailure):
    """What came back is not what the provider documents: broken JSON, a stream cut short."""

    status = 502
    type = "internal_server_error"
    code = "upstream_protocol_error"
    retryable = True
    cools_down = True


class ClientGone(Failure):
    """The client left before the end. It is recorded; nobody reads it."""

    status = 499
    type = "client_disconnect"
    code = "client_disconnect"


BY_STATUS: dict[int, type[UpstreamFailure]] = {
    401: BadCredentials,
    402: PermissionDenied,
    403: PermissionDenied,
    404: UpstreamNotFound,
    408: Timeout,
    429: Throttled,
}


def from_status(status: int, message: str, **fields: Any) -> UpstreamFailure:
    """The failure that an upstream HTTP status stands for; the status itself is kept."""
    kind = BY_STATUS.get(status)
    if kind is None:
        kind = Unavailable if status >= 500 else Rejected
    return kind(message, status=status, **fields)


_CONTEXT = (
    "context length", "context_length", "context window", "maximum context", "prompt is too long", "too many tokens",
    "input is too long", "exceeds the maximum number of tokens", "reduce the length", "token limit",
    "input token count",
)  # fmt: skip
_POLICY = (
    "content_filter", "content policy", "content_policy", "content management policy", "responsibleaipolicy",
    "safety system",
)  # fmt: skip


def classify(status: int, message: str, *, code: str | None = None, type: str | None = None) -> UpstreamFailure:
    """The failure class for a status, refined by what the message and the code say about a 400."""
    if status in (400, 413, 422):
        lowered = f"{message} {code or ''} {type or ''}".lower()
        if any(phrase in lowered for phrase in _CONTEXT):
            return ContextWindow(message, status=400)
        if any(phrase in lowered for phrase in _POLICY):
            return ContentPolicy(message, status=400, code=code if code and not code.isdigit() else None)
        if "invalid api key" in lowered or "api key not valid" in lowered:
            return BadCredentials(message, status=401, code=code)
    return from_status(status, message, code=code)
