"""The conformance suite, and which places lie in which regions."""

from typing import Any

import pytest
from tianji_strategy_region_filter import BELONG, RegionFilter, where, within

from tianji import BadRequest, Failure, Forbidden
from tianji.testing import FilterSuite, make_call, make_deployment, make_plugin, make_principal

GROUP = [
    make_deployment(id=name, region=region)
    for name, region in {"west": "eu-west1", "east": "us-east1", "nowhere": None}.items()
]


async def kept(asked: Any = None, bound: Any = None, group: list[Any] = GROUP) -> list[str]:
    principal = make_principal(metadata={} if bound is None else {"allowed_model_region": bound})
    call = make_call(options={} if asked is None else {"allowed_model_region": asked}, principal=principal)
    return [one.id for one in await make_plugin(RegionFilter).keep(call, group)]


class Settings:
    def __init__(self, **fields: Any) -> None:
        vars(self).update(fields)


class TestRegionFilter(FilterSuite):
    plugin = RegionFilter

    async def test_who_is_kept(self) -> None:
        assert await kept() == ["west", "east", "nowhere"]
        assert await kept("eu") == ["west"], "only eu-west1 among us-east1 and eu-west1"
        assert await kept("EU-West1") == ["west"]
        assert await kept("us") == ["east"]
        assert await kept(bound="eu") == ["west"]

    async def test_a_request_narrows_what_its_key_allows_and_never_widens_it(self) -> None:
        assert await kept("eu-west1", bound="eu") == ["west"]
        assert await kept("eu", bound="eu-west1") == ["west"]
        for asked in ("us", "us-east1"):
            with pytest.raises(Forbidden):
                await kept(asked, bound="eu")

    async def test_nobody_is_there(self) -> None:
        with pytest.raises(Forbidden) as caught:
            await kept("mars")
        failure = caught.value
        assert (failure.status, failure.param, failure.code) == (403, "allowed_model_region", "region_not_available")
        assert not failure.falls_back
        assert "mars" in failure.message
        with pytest.raises(Forbidden):
            await kept("eu", group=[make_deployment(id="nowhere")])

    @pytest.mark.parametrize(
        ("asked", "bound", "kind"),
        [("", None, BadRequest), (" ", None, BadRequest), (5, None, BadRequest), (["eu"], None, BadRequest),
         (None, "", Forbidden), (None, 5, Forbidden), (None, ["eu"], Forbidden), ("eu", False, Forbidden)],
    )  # fmt: skip
    async def test_what_names_no_region_is_refused(self, asked: Any, bound: Any, kind: type[Failure]) -> None:
        with pytest.raises(kind) as caught:
            await kept(asked, bound)
        assert caught.value.param == "allowed_model_region"

    @pytest.mark.parametrize(
        ("place", "region", "lies"),
        [
            ("eu-west1", "eu", True), ("eu-west-1", "eu", True), ("eu", "eu", True), ("EU", "eu", True),
            ("eu-west1", "eu-west", True), ("eu-west1", "eu-west1", True), ("eu-west1", "eu-west2", False),
            ("europe-west4", "eu", True), ("eu-central-1", "eu", True), ("westeurope", "eu", True),
            ("West Europe", "eu", True), ("swedencentral", "EU", True), ("francecentral", "eu", True),
            ("europe-west2", "eu", False), ("europe-west6", "eu", False), ("eu-west-2", "eu", False),
            ("eu-central-2", "eu", False), ("uksouth", "eu", False), ("switzerlandnorth", "eu", False),
            ("norwayeast", "eu", False), ("us-east1", "eu", False), ("eu-west-2", "eu-west-2", True),
            ("europe-west12", "europe-west1", False), ("europe-west1", "europe-west1", True),
            ("europe-west12", "eu", True), ("europe-west4", "europe", True), ("eureka", "eu", False),
            ("us-east-1", "us", True), ("us-gov-west-1", "us", True), ("eastus2", "us", True), ("East US", "us", True),
            ("usgovvirginia", "us", True), ("us-central1", "us", True), ("australiaeast", "us", False),
            ("eu", "eu-west1", False), ("eu", "", False), ("", "eu", False),
        ],
    )  # fmt: skip
    def test_places(self, place: str, region: str, lies: bool) -> None:
        assert within(place, region) is lies

    def test_the_table_names_each_place_once(self) -> None:
        assert not BELONG["eu"] & BELONG["us"]
        assert all(within(place, name) for name, places in BELONG.items() for place in places)

    @pytest.mark.parametrize(
        ("fields", "place"),
        [
            ({"region": "eu"}, "eu"),
            ({"region": "eu", "settings": Settings(aws_region_name="us-east-1")}, "eu"),
            ({"settings": Settings(aws_region_name="eu-west-3")}, "eu-west-3"),
            ({"settings": Settings(vertex_location="europe-west4")}, "europe-west4"),
            ({"settings": Settings(vertex_location="global")}, None),
            ({"settings": Settings(aws_region_name=None)}, None),
            ({"provider": "bedrock", "model": "eu.anthropic.claude-sonnet-4-v1:0"}, "eu"),
            ({"provider": "bedrock", "model": "converse/us.amazon.nova-pro-v1:0"}, "us"),
            ({"provider": "bedrock", "model": "us-gov.anthropic.claude-3-haiku-v1:0"}, "us"),
            ({"provider": "bedrock", "model": "global.anthropic.claude-sonnet-4-v1:0",
              "settings": Settings(aws_region_name="eu-west-1")}, None),
            ({"provider": "bedrock", "model": "zai.glm-4.6", "settings": Settings(aws_region_name="eu-west-1")},
             "eu-west-1"),
            ({"provider": "bedrock", "model": "arn:aws:bedrock:eu-west-1:1:application-inference-profile/abc",
              "settings": Settings(aws_region_name="eu-west-1")}, None),
            ({"provider": "bedrock", "model": "global.anthropic.claude-sonnet-4-v1:0", "region": "eu"}, "eu"),
            ({}, None),
        ],
    )  # fmt: skip
    def test_where_a_deployment_is(self, fields: dict[str, Any], place: str | None) -> None:
        assert where(make_deployment(**fields)) == place

    def test_reasons(self) -> None:
        plugin, call = self.make_plugin(), make_call(options={"allowed_model_region": "eu"})
        assert plugin.reason(call, GROUP[1]) == "it is in us-east1; allowed is eu"
        assert plugin.reason(call, GROUP[2]) == "its region is not known; allowed is eu"
