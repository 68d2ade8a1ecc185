"""Region filter: keeps calls in the region that they must not leave.

Docs: https://docs.litellm.ai/docs/proxy/customers (the key `allowed_model_region`, as operators know it)

The regions that belong to the EU or the US without being named so, by their vendors' lists:
https://cloud.google.com/compute/docs/regions-zones, https://learn.microsoft.com/azure/reliability/regions-list,
https://docs.aws.amazon.com/global-infrastructure/latest/regions/aws-regions.html.
"""

import re
from collections.abc import Sequence

from tianji import BadRequest, Call, Deployment, Filter, Forbidden

FIELD = "allowed_model_region"
_EU = """
    europe-west1 europe-west3 europe-west4 europe-west8 europe-west9 europe-west10 europe-west12 europe-north1
    europe-north2 europe-central2 europe-southwest1 eusc-de-east-1
    westeurope northeurope francecentral francesouth germanywestcentral germanynorth italynorth polandcentral
    spaincentral swedencentral swedensouth austriaeast belgiumcentral denmarkeast
"""
_US = """
    eastus eastus2 centralus northcentralus southcentralus westcentralus westus westus2 westus3
    usgovvirginia usgovarizona usgovtexas
"""
BELONG = {"eu": frozenset(_EU.split()), "us": frozenset(_US.split())}
"""Regions that a name stands for beside those that begin with it."""
OUTSIDE = {"eu": frozenset({"eu-west-2", "eu-central-2"})}
"""Regions that begin with a name and are not there: London and Zurich are not in the EU."""
_PLACES = ("aws_region_name", "vertex_location", "vertex_ai_location")
"""Settings of providers that say where a deployment is."""
_PROFILE = re.compile(r"(?:.*/)?(us|us-gov|eu|apac|ap|au|jp|ca|in|sa|me|af|il|mx|kr|sg|uk|global)\.[^/]+")
"""A model of Bedrock's that runs anywhere in a part of the world: `eu.anthropic.claude-…`, `global.…`."""


class RegionFilter(Filter):
    name = "region-filter"
    order = 300

    async def keep(self, call: Call, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        """Those in the region that the request names, and in the one that its key is held to.

        Raises `Forbidden` where there is none: such a call is never served elsewhere.
        """
        regions = _regions(call)
        if not regions:
            return candidates
        kept = [one for one in candidates if _lies(one, regions)]
        if not kept and candidates:
            raise Forbidden(
                f"No deployment of '{call.model}' is in the region that this request must not leave: "
                f"{' and '.join(regions)} ('{FIELD}').",
                param=FIELD, code="region_not_available",
            )  # fmt: skip
        return kept

    def reason(self, call: Call, deployment: Deployment) -> str:
        place = where(deployment)
        return (
            f"{f'it is in {place}' if place else 'its region is not known'}; allowed is {' and '.join(_regions(call))}"
        )


def _regions(call: Call) -> list[str]:
    """The regions that a call must not leave, all of them at once.

    Raises `BadRequest` or `Forbidden` for one that is not a text: it cannot be kept to.
    """
    asked, bound = call.options.get(FIELD), call.principal.metadata.get(FIELD)
    if asked is None and bound is None:
        return []
    if asked is not None and not (isinstance(asked, str) and plain(asked)):
        raise BadRequest(f"'{FIELD}' must be the name of a region.", param=FIELD, code="invalid_type")
    if bound is not None and not (isinstance(bound, str) and plain(bound)):
        raise Forbidden(f"This key is held to a region, and '{FIELD}' of its metadata names none.", param=FIELD)
    return list(dict.fromkeys(region for region in (asked, bound) if region is not None))


def _lies(deployment: Deployment, regions: Sequence[str]) -> bool:
    place = where(deployment)
    return place is not None and all(within(place, region) for region in regions)


def where(deployment: Deployment) -> str | None:
    """Where a deployment is: its `region`, else what its provider's settings say. None: nobody said."""
    if deployment.region:
        return deployment.region
    if deployment.provider.startswith("bedrock"):
        profile = _PROFILE.fullmatch(deployment.model)
        if profile is not None:
            return None if profile[1] == "global" else profile[1].removesuffix("-gov")
        if "inference-profile/" in deployment.model:
            return None  # a profile of the operator's own may spread over several regions
    found = (getattr(deployment.settings, name, None) for name in _PLACES)
    return next((place for place in found if isinstance(place, str) and place not in ("", "global")), None)


def within(place: str, region: str) -> bool:
    """Whether a place is in a region: its name is the region's, begins with it, or belongs to it.

    A beginning ends where a part of the name does: `europe-west1` is not the beginning of `europe-west12`.
    """
    place, region = plain(place), plain(region)
    if not region or place in OUTSIDE.get(region, ()):
        return False
    if place in BELONG.get(region, ()):
        return True
    if not place.startswith(region):
        return False
    rest = place[len(region) :]
    return not rest or not rest[0].isalnum() or (rest[0].isdigit() and not region[-1].isdigit())


def plain(name: str) -> str:
    """A region's name without capitals and spaces: `West Europe` is `westeurope`."""
    return "".join(name.split()).lower()
