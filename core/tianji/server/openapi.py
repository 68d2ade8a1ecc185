"""The OpenAPI document and its page.

Litestar describes the management routes; inference routes are bare ASGI handlers, so they are described here. The page
is made on the server and loads nothing from elsewhere.
"""

from __future__ import annotations

from html import escape
from typing import Any

from litestar import Litestar, MediaType, Request, Response, get
from litestar.datastructures import State

from tianji import __version__

_BEARER: list[dict[str, list[str]]] = [{"key": []}]


def _operation(summary: str, tag: str, fields: dict[str, str], required: list[str]) -> dict[str, Any]:
    schema = {
        "type": "object",
        "required": required,
        "properties": {name: {"type": kind} for name, kind in fields.items()},
        "additionalProperties": True,
    }
    error = {
        "description": "A typed error",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    return {
        "post": {
            "summary": summary,
            "tags": [tag],
            "security": _BEARER,
            "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
            "responses": {
                "200": {
                    "description": "The answer; a stream of server-sent events when `stream` is true",
                    "content": {"application/json": {}, "text/event-stream": {}},
                },
                "4XX": error,
                "5XX": error,
            },
        }
    }


_CHAT = _operation(
    "Chat completion", "openai",
    {"model": "string", "messages": "array", "stream": "boolean", "tools": "array", "temperature": "number"},
    ["model", "messages"],
)  # fmt: skip
_COMPLETIONS = _operation(
    "Text completion (legacy)",
    "openai",
    {"model": "string", "prompt": "string", "stream": "boolean"},
    ["model", "prompt"],
)
_EMBEDDINGS = _operation("Embeddings", "openai", {"model": "string", "input": "string"}, ["model", "input"])
_MESSAGES = _operation(
    "Messages, in Anthropic's dialect, from any provider", "anthropic",
    {"model": "string", "messages": "array", "max_tokens": "integer", "stream": "boolean"},
    ["model", "messages", "max_tokens"],
)  # fmt: skip
_COUNT = _operation("Count tokens", "anthropic", {"model": "string", "messages": "array"}, ["model", "messages"])

INFERENCE: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": _CHAT,
    "/v1/completions": _COMPLETIONS,
    "/v1/embeddings": _EMBEDDINGS,
    "/v1/messages": _MESSAGES,
    "/v1/messages/count_tokens": _COUNT,
}


def document(app: Litestar) -> dict[str, Any]:
    """The whole OpenAPI 3.1 document."""
    schema: dict[str, Any] = app.openapi_schema.to_schema()
    schema["paths"] = {**INFERENCE, **(schema.get("paths") or {})}
    components = schema.setdefault("components", {})
    components.setdefault("securitySchemes", {})["key"] = {"type": "http", "scheme": "bearer"}
    components.setdefault("schemas", {})["Error"] = {
        "type": "object",
        "properties": {
            "error": {
                "type": "object",
                "required": ["message", "type", "param", "code"],
                "properties": {
                    "message": {"type": "string"},
                    "type": {"type": "string"},
                    "param": {"type": ["string", "null"]},
                    "code": {"type": ["string", "null"]},
                },
            }
        },
    }
    return schema


@get("/openapi.json", include_in_schema=False)
async def openapi_json(request: Request[Any, Any, State]) -> dict[str, Any]:
    return document(request.app)


@get(["/docs", "/"], include_in_schema=False, media_type=MediaType.HTML)
async def docs_page(request: Request[Any, Any, State]) -> Response[str]:
    rows = []
    for path, methods in document(request.app)["paths"].items():
        for method, operation in methods.items():
            if not isinstance(operation, dict):
                continue
            tag = ", ".join(operation.get("tags") or ())
            rows.append(
                f"<tr><td><code>{escape(method.upper())}</code></td><td><code>{escape(path)}</code></td>"
                f"<td>{escape(operation.get('summary') or '')}</td><td>{escape(tag)}</td></tr>"
            )
    page = _PAGE.replace("{version}", escape(__version__)).replace("{rows}", "\n".join(rows))
    policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
    return Response(page, media_type=MediaType.HTML, headers={"content-security-policy": policy})


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Tianji API</title>
<style>
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:3rem auto;padding:0 1rem}
table{border-collapse:collapse;width:100%}
td,th{text-align:left;padding:.4rem .8rem .4rem 0;border-bottom:1px solid #8884}
code{font-family:ui-monospace,monospace;font-size:.92em}
</style></head><body>
<h1>Tianji {version}</h1>
<p>Send your key as <code>Authorization: Bearer &lt;key&gt;</code>. The machine-readable description is
<a href="/openapi.json">openapi.json</a>.</p>
<table><thead><tr><th>Method</th><th>Path</th><th>What it does</th><th>Dialect</th></tr></thead>
<tbody>
{rows}
</tbody></table></body></html>
"""
