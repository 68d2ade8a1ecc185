"""From a model's name to deployments: precedence, access, near matches, filled wildcards."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel import ask, asking, assembled, config, deployment, scripted, text_of

from tianji.errors import Forbidden, PluginError, UnknownModel
from tianji.model import Deployment
from tianji.plugin import PluginSettings
from tianji.router import Router, granted
from tianji.testing import make_deployment, make_principal


def one(group: str, model: str = "m", **fields: object) -> Deployment:
    return make_deployment(id=f"{group}|{model}", group=group, model=model, **fields)


def router(*deployments: Deployment, aliases: Mapping[str, tuple[str, bool]] | None = None) -> Router:
    return Router(deployments, aliases=aliases)


GROUPS = (
    one("fast"),
    one("fast", "second"),
    one("*", "anything/*"),
    one("openai/*", "gpt/*"),
    one("openai/gpt-*", "only-gpt-*"),
    one("openai/gpt-4*", "only-4-*"),
    one("a*c*", "x-*-y-*"),
    one("a*cde", "z-*"),
    one("openai/o1", "exact"),
)


@pytest.mark.parametrize(
    ("asked", "group", "model"),
    [
        ("fast", "fast", "m"),
        ("fast|second", "fast", "second"),  # the id of one deployment
        ("nice", "fast", "m"),
        ("quiet", "openai/gpt-*", "only-gpt-5"),
        ("openai/o1", "openai/o1", "exact"),  # exact before any wildcard
        ("openai/other", "openai/*", "gpt/other"),
        ("openai/gpt-5", "openai/gpt-*", "only-gpt-5"),
        ("openai/gpt-4o", "openai/gpt-4*", "only-4-o"),  # the longest pattern
        ("abcde", "a*cde", "z-b"),  # longer than a*c*
        ("a1c2", "a*c*", "x-1-y-2"),  # every capture in its place
        ("whatever/else", "*", "anything/whatever/else"),
    ],
)
def test_precedence(asked: str, group: str, model: str) -> None:
    aliases = {"nice": ("fast", False), "quiet": ("openai/gpt-5", True)}
    found = router(*GROUPS, aliases=aliases).find(asked)
    assert (found.name, found.deployments[0].model) == (group, model)


def test_an_alias_goes_before_a_group_of_its_name() -> None:
    assert router(one("a", "x"), one("b", "y"), aliases={"a": ("b", False)}).find("a").name == "b"


def test_fewer_stars_win_between_patterns_of_one_length() -> None:
    assert router(one("a*b*"), one("a*bb")).find("axbb").name == "a*bb"
    assert router(one("a*bb"), one("a*b*")).find("axbb").name == "a*bb"


def test_a_star_takes_at_least_one_character_and_nothing_else_is_special() -> None:
    found = router(one("a.b/*", "m-*"))
    assert found.find("a.b/(x)").deployments[0].model == "m-(x)"
    for name in ("a.b/", "axb/y", "A.b/y"):
        with pytest.raises(UnknownModel):
            found.find(name)


def test_a_model_without_a_star_is_not_filled() -> None:
    assert router(one("claude-*", "claude-sonnet")).find("claude-9").deployments[0].model == "claude-sonnet"


@given(st.text(min_size=1, max_size=12), st.text(min_size=1, max_size=12))
def test_captures_fill_in_order_whatever_they_hold(left: str, right: str) -> None:
    if "*" in left + right or "/" in left + right or "\n" in left + right:
        return
    found = router(one("p/*/q/*", "u:*:v:*")).find(f"p/{left}/q/{right}")
    assert found.deployments[0].model == f"u:{left}:v:{right}"


def test_the_cache_of_filled_wildcards_is_bounded() -> None:
    found = router(one("any/*", "*"))
    for number in range(25_000):
        assert found.find(f"any/{number}").deployments[0].model == str(number)
        assert len(found._filled) <= 10_000
    assert found.find("any/24999") is found.find("any/24999")


@pytest.mark.parametrize(
    ("asked", "hint"),
    [
        ("fats", "Did you mean 'fast'"),
        ("fast|secnd", "Did you mean 'fast|second'"),
        ("nicee", "Did you mean 'nice'?"),
        ("zzzzzz", "GET /v1/models lists the models there are."),
        ("z" * 5000, "GET /v1/models"),
    ],
)
def test_unknown_models_list_near_matches(asked: str, hint: str) -> None:
    found = router(*GROUPS[:2], aliases={"nice": ("fast", False), "secret-name": ("fast", True)})
    with pytest.raises(UnknownModel) as caught:
        found.find(asked)
    assert hint in caught.value.message
    assert len(caught.value.message) < 500
    assert (caught.value.status, caught.value.param, caught.value.code) == (404, "model", "model_not_found")


def test_hidden_aliases_are_not_listed_and_not_hinted() -> None:
    found = router(one("fast"), aliases={"shown": ("fast", False), "hidden": ("fast", True), "fast": ("fast", False)})
    assert found.names() == ["fast", "shown"]
    assert found.find("hidden").name == "fast"
    with pytest.raises(UnknownModel, match=re.escape("lists the models there are")):
        found.find("hiddem")


class TestAccess:
    @pytest.mark.parametrize(
        ("models", "asked", "allowed"),
        [
            (("*",), "fast", True), (("fast",), "fast", True), (("fast",), "nice", True), (("nice",), "nice", True),
            (("nice",), "fast", False), ((), "fast", False), (("fa*",), "fast", True),
            (("openai/*",), "openai/x", True), (("openai/*",), "fast", False), (("openai/*",), "openai/", False),
        ],
    )  # fmt: skip
    def test_by_model(self, models: tuple[str, ...], asked: str, allowed: bool) -> None:
        found = router(one("fast"), one("openai/*", "*"), aliases={"nice": ("fast", False), "openai/": ("fast", False)})
        group, caller = found.find(asked), make_principal(models=models)
        if allowed:
            assert found.allowed(group, caller, asked)
            return
        with pytest.raises(Forbidden) as caught:
            found.allowed(group, caller, asked)
        assert caught.value.code == "key_model_access_denied"

    def test_by_deployment(self) -> None:
        open_to_all, org, team, key = (
            one("g", "open"), one("g", "org", allowed_orgs=frozenset({"o"})),
            one("g", "team", allowed_teams=frozenset({"t"})), one("g", "key", allowed_keys=frozenset({"h"})),
        )  # fmt: skip
        found = router(open_to_all, org, team, key)
        group = found.find("g")

        def models(**caller: str) -> list[str]:
            return [one.model for one in found.allowed(group, make_principal(**caller), "g")]

        assert models() == ["open"]
        assert models(org_id="o") == ["open", "org"]
        assert models(team_id="t", org_id="other") == ["open", "team"]
        assert models(key_hash="h", team_id="t") == ["open", "team", "key"]
        assert models(role="proxy_admin") == ["open", "org", "team", "key"]

    def test_nothing_left_is_forbidden(self) -> None:
        found = router(one("g", allowed_orgs=frozenset({"o"})))
        with pytest.raises(Forbidden, match="may not use model 'g'"):
            found.allowed(found.find("g"), make_principal(), "g")
        # None is nobody's organisation.
        with pytest.raises(Forbidden):
            found.allowed(found.find("g"), make_principal(org_id=None), "g")

    @pytest.mark.parametrize(
        ("models", "asked", "group", "expected"),
        [(["a"], "a", "b", True), (["b"], "a", "b", True), (["c"], "a", "b", False), (["*"], "a", "b", True)],
    )
    def test_granted(self, models: list[str], asked: str, group: str, expected: bool) -> None:
        assert granted(models, asked, group) is expected


class TestStar:
    """`model: "*"`: each request names its provider."""

    async def test_the_named_provider_answers_with_its_own_settings_and_key(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MINE_API_KEY", "sk-from-env")
        seen: list[Deployment] = []
        base = scripted()

        class Mine(base):  # type: ignore[misc, valid-type]
            name = "mine"
            api_key_env = ("MINE_API_KEY",)

            class Settings(PluginSettings, frozen=True):
                flavour: str = "plain"

            async def call(self, call: object, deployment: Deployment) -> object:
                seen.append(deployment)
                return await super().call(call, deployment)

        everything = {"model_name": "*", "tianji_params": {"model": "*", "flavour": "mint", "temperature": 1}}
        gateway = assembled(config(everything), Mine)
        assert text_of((await ask(gateway, asking("mine/some/model"))).replied) == "ok"
        (used,) = seen
        assert (used.provider, used.model, used.settings.flavour) == ("mine", "some/model", "mint")
        assert used.api_key is not None
        assert used.api_key.reveal() == "sk-from-env"
        assert used.defaults == {"temperature": 1}
        await gateway.stop()

    async def test_a_provider_that_is_not_installed_is_an_unknown_model(self) -> None:
        gateway = assembled(config({"model_name": "*", "tianji_params": {"model": "*"}}))
        failure = (await ask(gateway, asking("nobody/x"))).failure
        assert isinstance(failure, UnknownModel)
        await gateway.stop()


def test_a_provider_that_is_not_installed_stops_the_start() -> None:
    spec = deployment()
    spec["tianji_params"]["model"] = "absent/x"
    with pytest.raises(PluginError, match=r"model_list\[0\]: provider \"absent\" is not installed"):
        assembled(config(spec))
