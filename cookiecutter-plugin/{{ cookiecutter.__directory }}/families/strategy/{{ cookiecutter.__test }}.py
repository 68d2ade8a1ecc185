"""The conformance suite, and the staying."""

from {{ cookiecutter.__module }} import {{ cookiecutter.__class }}

from tianji.testing import StrategySuite, make_call, make_deployment, make_principal

GROUP = [make_deployment(id=name) for name in ("a", "b", "c")]


class Test{{ cookiecutter.__class }}(StrategySuite):
    plugin = {{ cookiecutter.__class }}

    async def first(self, key: str, group: list = GROUP) -> str:
        call = make_call(principal=make_principal(key_id=key))
        return (await self.make_plugin().rank(call, group))[0].id

    async def test_a_caller_stays(self) -> None:
        assert await self.first("key-1") == await self.first("key-1", GROUP[::-1])

    async def test_callers_spread(self) -> None:
        assert {await self.first(f"key-{n}") for n in range(40)} == {"a", "b", "c"}

    async def test_only_its_own_callers_move(self) -> None:
        for n in range(40):
            before = await self.first(f"key-{n}")
            after = await self.first(f"key-{n}", GROUP[1:])
            assert after == before or before == "a"
