"""The document that explains a call: its shape, and how it is written down.

Routes are told in the words of `tianji.plan`, as those of a real call are.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tianji.plan import Route


class Acting(msgspec.Struct, frozen=True):
    """One plugin's place in a stage. The kernel's own parts are of the family `kernel`, and have no order."""

    plugin: str
    instance: str
    family: str
    distribution: str
    version: str
    order: int | None


class Chain(msgspec.Struct):
    """The fallbacks of one kind of failure, each tried only when all before it have failed."""

    targets: list[str] = []
    """As configured, or as the request names them."""
    routes: list[Route] = []
    """In the order in which they would be tried; those that are `refused` would be passed over."""
    note: str = ""
    """Why there are none, or no more."""


class Estimate(msgspec.Struct, frozen=True):
    """What is estimated of tokens and money. Nano-dollars are billionths of a dollar."""

    input_tokens: int
    """From the size of the texts."""
    deployment_id: str | None
    """The first that would be tried."""
    price_known: bool
    reserved_nano: int | None
    """What an attempt there would reserve: an upper bound of its cost. None: the price is not known."""
    spent_nano: int
    """What the caller's key has spent so far."""


class Explanation(msgspec.Struct, kw_only=True):
    """The document that `POST /v1/explain` answers with."""

    seed: int
    """Of the call's dice; with it the same routes can be had again."""
    config: str | None
    """Hash of the configuration. For administrators."""
    call: dict[str, Any]
    refused: dict[str, Any] | None
    """The error that the call would be answered with, and `by` whom, where that is certain; None: it would be tried."""
    hooks: dict[str, list[Acting]]
    """By stage, who acts there and in which order."""
    plugins: dict[str, dict[str, Any]]
    """What plugins say of themselves, by `family:instance`."""
    policies: list[dict[str, Any]] = []
    """Policies that match and those that do not. There are none yet."""
    routes: list[Route]
    """The route of the model that is asked for."""
    fallbacks: dict[str, Chain]
    """By kind of failure."""
    api_bases: dict[str, str] = {}
    """Addresses by deployment id, without credentials. For administrators."""
    estimated: Estimate
    unknown: list[str]
    """What only a real call can show."""


def plain(explanation: Explanation) -> dict[str, Any]:
    """The document as plain JSON data. What a plugin said that JSON cannot say becomes the name of its type."""
    data: dict[str, Any] = msgspec.to_builtins(explanation, str_keys=True, enc_hook=lambda value: type(value).__name__)
    return data
