"""docs/reference/errors.md: every way in which a call can fail, as the client sees it."""

from __future__ import annotations

import ast
from textwrap import dedent

from tianji import errors
from tianji.errors import Failure, TianjiError
from tools.docs.source import HEAD, class_of, code, doc, joined, table, tick, tree

MODULE = "tianji.errors"


def failures() -> list[type[Failure]]:
    """Every class of the tree below `Failure`, in the order in which the module draws them."""
    return [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, Failure)]


def page() -> str:
    drawn, _, rest = doc(tree(MODULE)).partition("\n\nStatuses")
    title, _, picture = drawn.partition("\n\n")
    rows = [row(one) for one in failures()]
    columns = ("class", "status", "type", "code", "`x-should-retry`", "retried", "cools down", "falls back", "meaning")
    parts = [
        "# Errors",
        HEAD,
        title,
        code(dedent(picture), "text"),
        f"Statuses{rest}",
        'A failure is answered as `{"error": {"message", "type", "param", "code"}}`, with `llm_provider` and '
        "`model` beside them where an attempt failed; clients of `/v1/messages` get Anthropic's envelope. Once a "
        "stream has begun, the failure is its last event and no `[DONE]` follows. `code` is the status where the "
        "class has none.",
        table(columns, rows),
        "`x-should-retry` tells the client's SDK whether the same request can succeed later. *Retried*: the attempt "
        "loop may try another deployment, or the same one after a pause. *Cools down*: it counts against the "
        "deployment. *Falls back*: another model group may be tried. The status of an `UpstreamFailure` is the "
        "provider's own where it sent one.",
        "## What authors raise",
        code(f"class Failure(TianjiError):\n    def __init__{init()}"),
        *arguments(),
        "## Failures that are not a call's",
        table(("class", "meaning"), [(tick(name), doc(class_of(MODULE, name))) for name in others()]),
    ]
    return joined(parts)


def row(cls: type[Failure]) -> tuple[str, ...]:
    sample = cls("")
    said = [tick(cls.__name__), str(cls.status), tick(cls.type), tick(cls.code or ""), word(sample.should_retry)]
    flags = [word(flag) for flag in (cls.retryable, cls.cools_down, cls.falls_back)]
    return (*said, *flags, doc(class_of(MODULE, cls.__name__)).partition("\n")[0])


def word(flag: bool) -> str:
    return "yes" if flag else "no"


def others() -> list[str]:
    """The classes that are no `Failure`."""
    return [
        name
        for name, one in vars(errors).items()
        if isinstance(one, type) and issubclass(one, TianjiError) and not issubclass(one, Failure)
    ]


def init() -> str:
    """The arguments of every failure."""
    node = next(one for one in class_of(MODULE, "Failure").body if getattr(one, "name", "") == "__init__")
    assert isinstance(node, ast.FunctionDef)
    return f"({ast.unparse(node.args)}) -> None"


def arguments() -> list[str]:
    """What a failure is made of: the sentence above its arguments, and those as a table."""
    first, _, rest = doc(class_of(MODULE, "Failure")).partition("\n\nArgs:\n")
    rows = [line.strip().partition(": ") for line in rest.splitlines()]
    return [first, table(("argument", "meaning"), [(tick(name), meaning) for name, _, meaning in rows])]
