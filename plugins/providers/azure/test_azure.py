"""The conformance suite, and Azure's ways to say where and who."""

from typing import Any

import pytest
from tianji_provider_azure import Azure

from tianji import BadRequest, Op, Secret
from tianji.testing import ProviderSuite, make_call

RESOURCE = "https://example.openai.azure.com"
DEPLOYMENT = f"{RESOURCE}/openai/deployments/my-gpt/chat/completions"


class TestAzure(ProviderSuite):
    plugin = Azure
    wire = "wire"
    settings = {"azure_ad_token": None}
    api_base = f"{RESOURCE}/openai/v1"

    def encoded(self, body: dict[str, Any] | None = None, *, op: Op = Op.CHAT, **fields: Any) -> Any:
        dialect = {Op.EMBEDDINGS: "openai-embeddings", Op.COMPLETIONS: "openai-completions"}.get(op, "openai-chat")
        call = make_call({"model": "m", "messages": [], **(body or {})}, op=op, dialect=dialect)
        return self.make_plugin().encode(call, self.make_deployment(**{"model": "my-gpt", **fields}))

    @pytest.mark.parametrize(
        ("base", "version", "url"),
        [
            (RESOURCE, "2024-10-21", f"{DEPLOYMENT}?api-version=2024-10-21"),
            (f"{RESOURCE}/", "2025-01-01-preview", f"{DEPLOYMENT}?api-version=2025-01-01-preview"),
            (f"{RESOURCE}/openai", "2024-10-21", f"{DEPLOYMENT}?api-version=2024-10-21"),
            (f"{RESOURCE}/openai/deployments/other", "2024-10-21",
             f"{RESOURCE}/openai/deployments/other/chat/completions?api-version=2024-10-21"),
            (f"{DEPLOYMENT}?api-version=2025-04-01", "2024-10-21", f"{DEPLOYMENT}?api-version=2025-04-01"),
            (f"{RESOURCE}/openai/v1", "2024-10-21", f"{RESOURCE}/openai/v1/chat/completions"),
            (f"{RESOURCE}/openai/v1/", "2024-10-21", f"{RESOURCE}/openai/v1/chat/completions"),
            (RESOURCE, "v1", f"{RESOURCE}/openai/v1/chat/completions"),
            (RESOURCE, "preview", f"{RESOURCE}/openai/v1/chat/completions?api-version=preview"),
            ("http://proxy.example/team/v1", "2024-10-21",
             "http://proxy.example/team/v1/openai/deployments/my-gpt/chat/completions?api-version=2024-10-21"),
        ],
    )  # fmt: skip
    def test_where(self, base: str, version: str, url: str) -> None:
        wire = self.encoded(api_base=base, settings=Azure.Settings(api_version=version))
        assert wire.url == url
        named = wire.body.get("model")
        assert named == ("my-gpt" if "/openai/v1/" in url else None), "the model is in the path or in the body"

    def test_a_deployments_name_is_quoted(self) -> None:
        assert "/deployments/my%2Fgpt%204/chat/" in self.encoded(api_base=RESOURCE, model="my/gpt 4").url

    def test_one_target_uri_serves_every_op(self) -> None:
        wire = self.encoded({"input": "x"}, op=Op.EMBEDDINGS, api_base=f"{DEPLOYMENT}?api-version=2025-04-01")
        assert wire.url == f"{RESOURCE}/openai/deployments/my-gpt/embeddings?api-version=2025-04-01"
        wire = self.encoded({"prompt": "x"}, op=Op.COMPLETIONS, api_base=RESOURCE)
        assert wire.url.startswith(f"{RESOURCE}/openai/deployments/my-gpt/completions?")

    def test_no_address_is_a_typed_error(self) -> None:
        with pytest.raises(BadRequest, match="api_base"):
            self.encoded(api_base=None)

    @pytest.mark.parametrize(
        ("key", "token", "header", "value"),
        [
            ("plain", None, "api-key", "plain"),
            ("Bearer abc", None, "authorization", "Bearer abc"),
            (None, "tok", "authorization", "Bearer tok"),
            ("plain", "tok", "authorization", "Bearer tok"),
        ],
    )
    def test_who(self, key: str | None, token: str | None, header: str, value: str) -> None:
        settings = Azure.Settings(azure_ad_token=Secret(token) if token else None)
        wire = self.encoded(api_key=key, settings=settings)
        sent = {name: wire.headers[name] for name in ("api-key", "authorization") if name in wire.headers}
        assert sent == {header: value}

    @pytest.mark.parametrize(
        ("model", "info", "field"),
        [
            ("gpt-5-mini", {}, "max_completion_tokens"),
            ("o3-mini", {}, "max_completion_tokens"),
            ("gpt-4o", {}, "max_tokens"),
            ("our-best", {"base_model": "azure/gpt-5"}, "max_completion_tokens"),
            ("o1-like-name", {"base_model": "azure/gpt-4o"}, "max_tokens"),
        ],
    )
    def test_reasoning_models(self, model: str, info: dict[str, str], field: str) -> None:
        body = self.encoded({"max_tokens": 5}, model=model, info=info).body
        assert {name: body[name] for name in ("max_tokens", "max_completion_tokens") if name in body} == {field: 5}

    @pytest.mark.parametrize(("version", "asks"), [("2024-02-01", False), ("2024-09-01-preview", True)])
    def test_old_versions_are_not_asked_for_usage(self, version: str, asks: bool) -> None:
        wire = self.encoded({"stream": True}, api_base=RESOURCE, settings=Azure.Settings(api_version=version))
        assert ("stream_options" in wire.body) is asks

    def test_a_filtered_prompt_says_why(self) -> None:
        inner = {"code": "ResponsibleAIPolicyViolation", "content_filter_result": {"hate": {"filtered": True}}}
        error = {"message": "The response was filtered.", "code": "content_filter", "innererror": inner}
        failure = self.make_plugin().failure(400, {"error": error})
        assert type(failure).__name__ == "ContentPolicy"
        assert failure.body()["innererror"] == inner
