"""{{ cookiecutter.__title }}: {{ cookiecutter.description.rstrip('.') }}.

Docs: https://docs.{{ cookiecutter.__folder }}.example/ingest
"""

from collections.abc import Sequence

from tianji import Callback, PluginSettings, Record, Secret, Wire, encode_json


class {{ cookiecutter.__class }}(Callback):
    name = "{{ cookiecutter.name }}"

    class Settings(PluginSettings, frozen=True):
        url: str
        """Where the records are posted to, one JSON array a batch."""
        api_key: Secret | None = None
        """Sent as a bearer token."""

    settings: Settings

    async def export(self, records: Sequence[Record]) -> None:
        """Deliver once and raise where that fails: the kernel retries, backs off and opens the circuit."""
        headers = {"content-type": "application/json"}
        if self.settings.api_key:
            headers["authorization"] = f"Bearer {self.settings.api_key.reveal()}"
        body = encode_json(
            [
                {
                    "id": record.id,
                    "model": record.model,
                    "status": record.status,
                    "seconds": record.duration,
                    "tokens": record.usage.total_tokens if record.usage else None,
                    "usd": record.cost.usd if record.cost else None,  # None is an unknown price, which is not 0
                }
                for record in records
            ]
        )
        status, _, _ = await self.gateway.fetch(Wire(self.settings.url, headers, body))
        if status >= 300:
            raise RuntimeError(f"the receiver answered {status}")
