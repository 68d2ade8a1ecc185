"""Google's error envelope as a typed failure.

Docs: https://ai.google.dev/gemini-api/docs/troubleshooting and https://cloud.google.com/apis/design/errors
"""

import re
from typing import Any

from tianji import BadCredentials, Failure, ProtocolError, Unavailable, classify, error_fields

from .shapes import an_object, dicts

_RETRY_IN = re.compile(r"retry in (\d+(?:\.\d+)?)s")
_BAD_KEY = ("api key not valid", "api key expired", "api key not found", "reported as leaked")


class BadToolCall(ProtocolError):
    """The model wrote a function call that cannot be read, and nothing else. Another try may go well.

    It is the model that stumbled over this request: the deployment is healthy, and stays in service for others.
    """

    cools_down = False


def read_failure(status: int, data: Any) -> Failure:
    """`{"error": {code, message, status, details}}`, or a list of one, or whatever a proxy put in its place."""
    message, _, _ = error_fields(data)
    error = envelope(data)
    details = dicts(error.get("details"))
    name = error.get("status") if isinstance(error.get("status"), str) else None
    reason = next((str(detail["reason"]) for detail in details if "reason" in detail), "")
    message = message or f"Gemini answered with status {status}."
    lowered = message.lower()
    failure: Failure
    if reason.startswith("API_KEY_") or any(phrase in lowered for phrase in _BAD_KEY):
        failure = BadCredentials(message, code=reason or name)
    elif status == 499:
        failure = Unavailable(message, code=name)  # cancelled on Google's side: nobody here has left
    else:
        failure = classify(status, message, code=name)
    failure.retry_after = retry_after(details, lowered)
    return failure


def retry_after(details: list[dict[str, Any]], message: str) -> float | None:
    """Seconds from `RetryInfo.retryDelay` (`"45.8s"`), else from the message's own words."""
    for detail in details:
        delay = detail.get("retryDelay")
        if isinstance(delay, str):
            try:
                return max(0.0, float(delay.removesuffix("s")))
            except ValueError:
                continue
    match = _RETRY_IN.search(message)
    return float(match[1]) if match else None


def envelope(data: Any) -> dict[str, Any]:
    """The error object itself; empty where there is none."""
    if isinstance(data, list) and data:
        data = data[0]
    return an_object(an_object(data).get("error"))
