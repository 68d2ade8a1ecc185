"""Budget limiter: stops using providers and deployments whose budget is spent.

Docs: https://docs.litellm.ai/docs/proxy/provider_budget_routing (the semantics that operators expect of these keys)
"""

import asyncio
import logging
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from time import time
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from tianji import (
    Attempt,
    Call,
    ConfigError,
    Counters,
    Deployment,
    Filter,
    NoDeployment,
    Overloaded,
    PluginSettings,
    Release,
    hookimpl,
)

logger = logging.getLogger("tianji.strategies.budget-limiter")

PAUSE = 1.0
"""Seconds between two exchanges with the other processes."""
DAY = 86400.0
FOREVER = 3650 * DAY
"""What a budget without a period counts over, as a counter has to end some day."""
LONGEST = 40_000 * DAY
"""Of a period: a hundred years, whatever the length of their months."""
MOST = 10_000
"""Accounts that are kept. Ids of deployments change with the configuration."""
NANO = 1_000_000_000
LIMIT = 2**53
"""The largest amount that a counter takes: nine million dollars."""
NEWEST = 0.3
"""Weight of the newest attempt in the average cost of an account's attempts."""
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": DAY, "w": 7 * DAY, "mo": 30 * DAY}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|mo|s|m|h|d|w)")


class ProviderBudget(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What may be spent at one provider."""

    budget_limit: Annotated[float, Meta(ge=0)]
    """Dollars."""
    time_period: str | None = None
    """In which time: `1d`, `12h`, `1mo`. None: for ever."""


class Period:
    """A stretch of time that repeats, beginning at the same moments in every process.

    `1d` begins at midnight UTC, `7d` on Mondays, `1mo` on the first of the month; every other period is counted off
    from the first of January 1970.
    """

    __slots__ = ("months", "seconds", "text")

    def __init__(self, text: str | None) -> None:
        self.text = text
        parts = _PART.findall(text or "")
        self.months = int(float(parts[0][0])) if len(parts) == 1 and parts[0][1] == "mo" else 0
        self.seconds = FOREVER
        if self.months:
            self.seconds = self.months * 31 * DAY
        elif text is not None:
            self.seconds = sum(float(number) * _UNITS[unit] for number, unit in parts) or _seconds(text)
        if text is not None and not 1.0 <= self.seconds <= LONGEST:
            raise ValueError(f"{text!r} is not a period from a second to a hundred years")

    def at(self, now: float) -> tuple[float, float]:
        """Beginning and end of the period that a moment is in, in seconds since the epoch."""
        if self.text is None:
            return 0.0, float("inf")
        if self.months:
            day = datetime.fromtimestamp(now, UTC)
            first = (day.year * 12 + day.month - 1) // self.months * self.months
            return _month(first), _month(first + self.months)
        monday = 4 * DAY if self.seconds % (7 * DAY) == 0 else 0.0
        start = (now - monday) // self.seconds * self.seconds + monday
        return start, start + self.seconds


class Account:
    """What was spent of one budget in the present period; nano-dollars."""

    __slots__ = ("average", "ends", "key", "pending", "period", "sending", "starts", "total")

    def __init__(self, key: str, period: Period) -> None:
        self.key = key
        self.period = period
        self.starts = self.ends = 0.0
        self.total = 0
        """As the counter knows it, all processes together."""
        self.sending = 0
        """On its way to the counter."""
        self.pending = 0
        """Spent here, and not sent yet."""
        self.average = 0.0
        """Cost of an attempt, the newest weighing most."""

    def spent(self, now: float) -> int:
        return self.total + self.sending + self.pending if now < self.ends else 0

    def begin(self, now: float) -> None:
        """Begin a new period, where the one before is over."""
        if now >= self.ends:
            self.starts, self.ends = self.period.at(now)
            self.total = self.sending = self.pending = 0


@lru_cache(maxsize=10_000)
def _accounts(provider: str, limit: int | None, deployment: str, dollars: float | None) -> tuple[tuple[str, int], ...]:
    """Accounts and limits in nano-dollars: of the provider, and of the deployment, which has dollars to spend."""
    accounts = [] if limit is None else [(f"provider:{provider}", limit)]
    if dollars is not None:
        accounts.append((f"deployment:{deployment}", int(dollars * NANO)))
    return tuple(accounts)


class BudgetLimiter(Filter):
    name = "budget-limiter"

    class Settings(PluginSettings, frozen=True):
        provider_budget_config: dict[str, ProviderBudget] = {}
        """By provider: `budget_limit` (dollars) and `time_period`."""

    settings: Settings

    def __init__(self, settings: Any, *, instance: str, gateway: Any) -> None:
        super().__init__(settings, instance=instance, gateway=gateway)
        self.limits = {name: int(one.budget_limit * NANO) for name, one in settings.provider_budget_config.items()}
        self.accounts: dict[str, Account] = {}
        """By key: `provider:openai`, or `deployment:` and its id."""
        for name, one in settings.provider_budget_config.items():
            try:
                self._open(f"provider:{name}", one.time_period)
            except ValueError as error:
                raise ConfigError(
                    str(error), path=f"router_settings.provider_budget_config.{name}.time_period"
                ) from None
        self.in_flight: dict[str, int] = {}
        """Attempts under way by account; one that is idle has no entry."""
        self._unpriced: set[str] = set()
        self._failing = False
        self._closed = False
        self._config: Any = None

    @hookimpl
    async def startup(self) -> None:
        """Learn what was spent before, so that a restart does not fill the budgets up again."""
        await self.exchange()
        self.gateway.every(PAUSE, self.exchange, name="exchange what was spent")

    @hookimpl
    async def shutdown(self) -> None:
        await self.exchange()
        self._closed = True

    async def keep(self, call: Call, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        """Those whose provider's budget and whose own are not used up.

        Raises `NoDeployment` where there is none, with the time until the first budget is there again.
        """
        now = time()
        kept = [one for one in candidates if self._over(one, now) is None]
        if not kept and candidates:
            ends = [over[2] for one in candidates if (over := self._over(one, now)) is not None]
            raise NoDeployment(
                f"The budgets of all deployments of '{call.model}' are used up for now.",
                param="model", type="budget_exceeded", code="deployment_budget_exceeded",
                retry_after=_until(min(ends), now),
            )  # fmt: skip
        return kept

    def reason(self, call: Call, deployment: Deployment) -> str:
        now = time()
        over = self._over(deployment, now)
        if over is None:
            return "its budget was used up"
        key, limit, ends = over
        until = f"until {datetime.fromtimestamp(ends, UTC):%Y-%m-%d %H:%M} UTC" if ends < now + FOREVER else "for ever"
        return f"the budget of {key.partition(':')[2]!r}, ${limit / NANO:g}, is used up {until}"

    def begin(self, call: Call, deployment: Deployment) -> Release | None:
        """Count an attempt as under way. Raises `Overloaded` (429) where the budget was used up meanwhile."""
        now = time()
        if (over := self._over(deployment, now)) is not None:
            raise Overloaded(
                f"The budget of deployment '{deployment.id}' is used up.",
                status=429, type="budget_exceeded", code="deployment_budget_exceeded",
                retry_after=_until(over[2], now),
            )  # fmt: skip
        if deployment.max_budget is not None:
            self._open(f"deployment:{deployment.id}", deployment.budget_duration)
        keys = [key for key, _ in self._budgets(deployment)]
        for key in keys:
            self.in_flight[key] = self.in_flight.get(key, 0) + 1

        def give_back() -> None:
            for key in keys:
                left = self.in_flight[key] - 1
                if left:
                    self.in_flight[key] = left
                else:
                    del self.in_flight[key]

        return give_back if keys else None

    def observe(self, attempt: Attempt) -> None:
        """Count what an attempt cost. One whose price is not known costs nothing here, and is named in the log once."""
        accounts = [
            account
            for key in (f"provider:{attempt.provider}", f"deployment:{attempt.deployment_id}")
            if (account := self.accounts.get(key)) is not None
        ]
        if not accounts:
            return
        if attempt.nano is None:
            if attempt.outcome == "ok" and attempt.deployment_id not in self._unpriced and len(self._unpriced) < MOST:
                self._unpriced.add(attempt.deployment_id)
                logger.warning(
                    "deployment %s has a budget and no price: what it costs is not counted", attempt.deployment_id
                )
            return
        now, nano = time(), min(max(0, attempt.nano), LIMIT)
        for account in accounts:
            account.begin(now)
            account.pending = min(account.pending + nano, LIMIT)
            account.average += NEWEST * (nano - account.average) if account.average else nano

    # -- budgets -------------------------------------------------------------------------------------------------------

    def _budgets(self, deployment: Deployment) -> tuple[tuple[str, int], ...]:
        """The accounts that pay for a deployment, and their limits in nano-dollars."""
        provider = deployment.provider
        return _accounts(provider, self.limits.get(provider), deployment.id, deployment.max_budget)

    def _over(self, deployment: Deployment, now: float) -> tuple[str, int, float] | None:
        """The account that is used up, its limit and when its period ends; None where there is money.

        What is under way counts with the average cost of the attempts before it.
        """
        for key, limit in self._budgets(deployment):
            account = self.accounts.get(key)
            if account is None:
                if limit <= 0:
                    return key, limit, Period(deployment.budget_duration).at(now)[1]
                continue
            if account.spent(now) + self.in_flight.get(key, 0) * account.average >= limit:
                return key, limit, account.period.at(now)[1]
        return None

    def _open(self, key: str, period: str | None) -> None:
        account = self.accounts.get(key)
        if account is None or account.period.text != period:
            if account is None and len(self.accounts) >= MOST:
                oldest = next((one for one in self.accounts if one.startswith("deployment:")), key)
                self.accounts.pop(oldest, None)
            self.accounts[key] = Account(key, Period(period))

    # -- together with other processes ---------------------------------------------------------------------------------

    async def exchange(self) -> None:
        """Tell the counters what was spent here, and learn what was spent elsewhere.

        What could not be told is told later. Within a period the sum never falls, even where a store forgot it.
        """
        if self._closed:
            return
        self._open_configured()
        counters = self.gateway.need(Counters)  # type: ignore[type-abstract]
        try:
            await asyncio.gather(*(self._tell(counters, account) for account in list(self.accounts.values())))
        except Exception:
            if not self._failing:
                logger.exception("what was spent cannot be exchanged; this process goes by what it knows")
            self._failing = True
        else:
            self._failing = False

    def _open_configured(self) -> None:
        """The accounts of all deployments with a budget, where the configuration is another than last time."""
        config = self.gateway.config
        if config is self._config:
            return
        self._config = config
        for spec in getattr(config, "deployments", ()):
            if spec.extra.get("max_budget") is not None:
                period = spec.extra.get("budget_duration")
                self._open(f"deployment:{spec.id}", None if period is None else str(period).strip().lower())

    async def _tell(self, counters: Counters, account: Account) -> None:
        account.begin(time())
        starts, window = account.starts, account.period.seconds
        place = f"{self.name}:{account.key}:{int(starts)}:{account.period.text}"
        amount = account.sending = account.pending
        account.pending = 0
        try:
            total = await (counters.add(place, amount, window) if amount else counters.read(place, window))
        except BaseException:
            if account.starts == starts:
                account.pending += amount
                account.sending = 0
            raise
        if account.starts == starts:  # else a new period began meanwhile, and this is of the one before
            account.total = max(total, account.total + amount)
            account.sending = 0


def _seconds(text: str) -> float:
    """A plain number of seconds; 0 where it is none."""
    try:
        return float(text)
    except ValueError:
        return 0.0


def _month(number: int) -> float:
    """When a month begins, of months counted from the year 0."""
    return datetime(number // 12, number % 12 + 1, 1, tzinfo=UTC).timestamp()


def _until(ends: float, now: float) -> float | None:
    return ends - now if ends < now + FOREVER else None
