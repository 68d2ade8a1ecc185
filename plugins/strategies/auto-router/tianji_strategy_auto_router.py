"""Auto router: the model group whose examples the user's last message is most like.

Examples and messages are turned into vectors by an embedding model of this very gateway, or by the extension
`embedder-local`, and compared by the cosine of their angle. Whatever goes wrong on the way, the default model answers.

Docs: https://docs.litellm.ai/docs/proxy/auto_routing_semantic (the keys, and the layout of the file)
"""

import asyncio
import logging
import re
from collections.abc import Mapping, Sequence
from math import isfinite, sqrt
from operator import mul
from pathlib import Path
from time import monotonic
from typing import Annotated, Any

import msgspec

from tianji import (
    Call,
    ConfigError,
    Embedder,
    Failure,
    Op,
    PluginSettings,
    ProtocolError,
    Refused,
    Rejected,
    Reply,
    Selector,
    TianjiError,
    hookimpl,
)

logger = logging.getLogger("tianji.auto-router")

EMBEDDING_MODEL = "text-embedding-3-small"
LOCAL = "local"
"""In place of an embedding model: whatever extension offers the service `Embedder`."""
THRESHOLD = 0.5
LOCAL_THRESHOLD = 0.25
"""Texts of one topic share fewer words than meanings."""
PATIENCE = 10.0
"""Seconds that embeddings may take, and never more than half of what the call has left."""
PAUSE = 10.0
"""Seconds without another try after embeddings could not be had; all calls go to the default model meanwhile."""
COMPLAINTS = 60.0
"""Seconds between two log lines about that."""
HEAD, TAIL = 3_000, 1_000
"""Characters of a message that are compared, from its beginning and its end: embedding models refuse long inputs."""
TURN = 100_000
"""Multiplications after which other tasks get their turn."""
MANY = 64
"""Texts whose vectors are worked on beside the event loop, as a few milliseconds do not suffice."""
MAX_FILE = 4 * 1024 * 1024
MAX_EXAMPLES = 2048
"""What OpenAI takes in one request."""

Vector = Sequence[float]


class Topic(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of `routes`. The last four fields are semantic-router's and say nothing here."""

    name: str
    model: str | None = None
    """The model group that answers; else the name is one."""
    description: str | None = None
    """Compared where there are no examples."""
    examples: tuple[str, ...] = ()
    utterances: tuple[str, ...] = ()
    """LiteLLM's word for examples."""
    score_threshold: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)] | None = None
    function_schemas: Any = None
    llm: Any = None
    metadata: Any = None
    type: Any = None

    @property
    def target(self) -> str:
        return self.model or self.name

    @property
    def texts(self) -> tuple[str, ...]:
        """What is like this topic."""
        given = (*self.examples, *self.utterances) or (self.description or "",)
        return tuple(shortened(text) for text in given if text.strip())


class Topics(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole of `auto_router_config`. `encoder_*` are semantic-router's, and LiteLLM does not read them either."""

    routes: Annotated[tuple[Topic, ...], msgspec.Meta(min_length=1, max_length=200)]
    encoder_type: Any = None
    encoder_name: Any = None


def _read(path: str) -> str:
    """A file of routes."""
    file = Path(path).expanduser().absolute()
    try:
        with file.open("rb") as source:
            data = source.read(MAX_FILE + 1)
        if len(data) > MAX_FILE:
            raise ConfigError(f"{file} is larger than {MAX_FILE} bytes", path="auto_router_config_path")
        return data.decode("utf-8-sig") or " "
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        mend = "A relative path is looked up from the working directory"
        raise ConfigError(f"{file} cannot be read: {reason}", path="auto_router_config_path", mend=mend) from None


class AutoRouter(Selector):
    name = "auto-router"

    class Settings(PluginSettings, frozen=True):
        auto_router_config: str | dict[str, Any] | None = None
        """The routes, as a mapping or as JSON: `routes`, each with `name`, `model` (else the name is the model group),
        `examples` or `utterances`, and `score_threshold`."""
        auto_router_config_path: str | None = None
        """A JSON file with the same, in semantic-router's layout as LiteLLM's; relative to the working directory."""
        auto_router_default_model: str | None = None
        """The model group where no route is near enough, or nothing can be compared. Else the first route's."""
        auto_router_embedding_model: str | None = None
        """The model group that makes the vectors (`text-embedding-3-small` where nothing is said), or `local`."""

        def __post_init__(self) -> None:
            """Read the file, so that a reload sees what has changed in it, and refuse what cannot be used."""
            if self.auto_router_config_path and self.auto_router_config:
                message = "the routes are given twice: there is `auto_router_config` as well"
                raise ConfigError(message, path="auto_router_config_path", mend="Keep one of them")
            if self.auto_router_config_path:
                msgspec.structs.force_setattr(self, "auto_router_config", _read(self.auto_router_config_path))
            self.topics()

        @property
        def key(self) -> str:
            """Where the routes are."""
            return "auto_router_config_path" if self.auto_router_config_path else "auto_router_config"

        def topics(self) -> tuple[Topic, ...]:
            """The routes. Raises `ConfigError`."""
            given, key = self.auto_router_config, self.key
            if not given:
                mend = "Give the routes there, or in a file: auto_router_config_path"
                raise ConfigError("missing: the routes to choose from", path=key, mend=mend)
            try:
                if isinstance(given, str):
                    topics = msgspec.json.decode(given, type=Topics).routes
                else:
                    topics = msgspec.convert(given, Topics).routes
            except (msgspec.DecodeError, RecursionError) as error:
                place = re.search(r" - at `\$\.?([^`]*)`", str(error))
                path = f"{key}.{place[1]}" if place and place[1] else key
                reason = str(error)[: place.start() if place else None].replace("Object", "it")
                mend = "Expected {routes: [{name, model, examples, score_threshold}]}"
                raise ConfigError(reason, path=path, mend=mend) from None
            for number, topic in enumerate(topics):
                if not topic.texts or not topic.target:
                    message = f"the route {topic.name!r} has nothing to be compared with"
                    raise ConfigError(
                        message, path=f"{key}.routes[{number}]", mend="Give it `examples`, or a description"
                    )
            if sum(len(topic.texts) for topic in topics) > MAX_EXAMPLES:
                raise ConfigError(
                    f"more than {MAX_EXAMPLES} examples", path=key, mend="Fewer will do: they are averaged"
                )
            return topics

    settings: Settings

    def __init__(self, settings: Any, *, instance: str, gateway: Any) -> None:
        super().__init__(settings, instance=instance, gateway=gateway)
        self.topics = self.settings.topics()
        self.default = self.settings.auto_router_default_model or self.topics[0].target
        self.model = self.settings.auto_router_embedding_model or EMBEDDING_MODEL
        self.local = self.model == LOCAL
        usual = LOCAL_THRESHOLD if self.local else THRESHOLD
        self.thresholds = [usual if one.score_threshold is None else one.score_threshold for one in self.topics]
        self._learnt: asyncio.Task[list[Vector]] | None = None
        """The topics' vectors, or the one request for them that is under way."""
        self._tasks: set[asyncio.Task[list[Vector]]] = set()
        self._source: Any = None
        """What made the vectors. From another one they would mean something else."""
        self._config: Any = None
        self._paused_until = 0.0
        self._complained = -COMPLAINTS

    def targets(self) -> Mapping[str, str]:
        settings = self.settings
        places = {topic.target: f"{settings.key}.routes[{n}]" for n, topic in reversed([*enumerate(self.topics)])}
        if settings.auto_router_default_model:
            places.setdefault(self.default, "auto_router_default_model")
        if settings.auto_router_embedding_model and not self.local:
            places.setdefault(self.model, "auto_router_embedding_model")
        return places

    @hookimpl
    async def startup(self) -> None:
        if self.local:
            self._embedder()  # a start without it would route nothing

    @hookimpl
    async def shutdown(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- choosing ------------------------------------------------------------------------------------------------------

    async def choose(self, call: Call) -> str:
        """The target of the nearest topic, else the default."""
        target, reason = await self._choice(call)
        if call.plan is not None:
            call.plan.because(reason)
        return target

    async def _choice(self, call: Call) -> tuple[str, str]:
        """A model group, and why it."""
        text = shortened(self.question(call))
        if not text:
            return self.default, "the default: there is no text of a user to go by"
        if call.dry and not self.local:
            return self.default, "the default: a call that is only explained is not embedded, as that costs money"
        if monotonic() < self._paused_until:
            return self.default, "the default: no embeddings could be had a moment ago"
        patience = min(PATIENCE, call.remaining() / 2)
        try:
            async with asyncio.timeout(patience):
                vectors = await self._topics(call)
                (vector,) = _vectors(await self._embedded([text], call), 1)
            return self._nearest(await _cosines(vector, vectors), names=call.principal.is_admin)
        except TimeoutError as error:
            if patience == PATIENCE:  # else it was the call that was short of time
                self._complain(error)
        except TianjiError as error:
            self._complain(error)
        except Exception as error:
            logger.exception("%s: the embeddings cannot be used", self.instance)
            self._complain(error)
        return self.default, "the default: no embeddings could be had"

    def explain(self, call: Call) -> dict[str, Any] | None:
        if self.local or not self.question(call):
            return None
        return {"unknown": f"which group is near: '{self.model}' would have to be asked for vectors, which costs money"}

    def _nearest(self, scores: Sequence[float], *, names: bool) -> tuple[str, str]:
        """The best of the topics that reach their thresholds; of equals the first. Others' names are not for all."""
        order = sorted(range(len(scores)), key=lambda n: -scores[n])
        near = next((n for n in order if scores[n] >= self.thresholds[n]), None)

        def shown(n: int, named: bool = names) -> str:
            return f"{f'{self.topics[n].name} ' if named else ''}{scores[n]:.3f} of {self.thresholds[n]:g}"

        others = ", ".join(shown(n) for n in order[:3] if n != near)
        if near is None:
            return self.default, f"the default: nothing is near enough ({others})"
        return self.topics[near].target, f"near to {shown(near, True)}" + (f" ({others})" if others else "")

    def _complain(self, error: Exception) -> None:
        """Leave the embeddings alone for a while, unless it was this caller or this text that they refused."""
        now = monotonic()
        missing = getattr(error, "status", None) == 404  # the model group itself, and so for everybody
        if missing or not isinstance(error, (Refused, Rejected)):
            self._paused_until = now + PAUSE
        if now - self._complained >= COMPLAINTS:
            self._complained = now
            reason = error.message if isinstance(error, Failure) else str(error)
            logger.warning(
                "%s: no embeddings from %r, so the default model %r answers: %s: %s",
                self.instance, self.model, self.default, type(error).__name__, reason,
            )  # fmt: skip

    # -- vectors -------------------------------------------------------------------------------------------------------

    async def _topics(self, call: Call) -> list[Vector]:
        """The topics' vectors. The first call that needs them has them made, and whoever comes meanwhile waits."""
        self._look_at_source()
        task = self._learnt
        if task is None:
            task = self._learnt = asyncio.create_task(self._learn(call), name=f"examples of {self.instance}")
            self._tasks.add(task)
            task.add_done_callback(self._ended)
        return await asyncio.shield(task)  # a caller who leaves does not take the others' vectors along

    def _look_at_source(self) -> None:
        """Forget the vectors where another model may answer now under the same name."""
        if self.local:
            source: Any = self._embedder()
        elif (config := self.gateway.config) is not self._config:
            self._config = config
            source = getattr(config, "deployments", None), getattr(config, "router_settings", None)
        else:
            return
        if source is not self._source and source != self._source:
            self._source, self._learnt = source, None

    def _ended(self, task: asyncio.Task[list[Vector]]) -> None:
        self._tasks.discard(task)
        if (task.cancelled() or task.exception() is not None) and self._learnt is task:
            self._learnt = None  # the next call tries again

    async def _learn(self, call: Call) -> list[Vector]:
        """The mean direction of each topic's examples, all of which are in one request."""
        texts = [text for topic in self.topics for text in topic.texts]
        async with asyncio.timeout(PATIENCE):
            found = await self._embedded(texts, call)
            if len(texts) > MANY:
                return await asyncio.to_thread(self._means, found, len(texts))
            return self._means(found, len(texts))

    def _means(self, found: Any, count: int) -> list[Vector]:
        vectors = iter(_vectors(found, count))
        each = ([next(vectors) for _ in topic.texts] for topic in self.topics)
        return [_unit([sum(column) for column in zip(*some, strict=True)]) for some in each]

    async def _embedded(self, texts: Sequence[str], call: Call) -> Any:
        """The answer of whoever makes vectors of these texts: the embedder's, or the body of an embeddings call."""
        if self.local:
            return await self._embedder().embed(texts)
        return await self.gateway.ask(self._request(texts, call))

    def _embedder(self) -> Embedder:
        return self.gateway.need(Embedder)  # type: ignore[type-abstract]

    def _request(self, texts: Sequence[str], call: Call) -> Call:
        """The caller's own call for embeddings. Whoever may use the stand-in may use what it asks."""
        principal = msgspec.structs.replace(call.principal, models=(*call.principal.models, self.model))
        return Call(
            ingress=call.ingress,
            op=Op.EMBEDDINGS,
            dialect="openai-embeddings",
            model=self.model,
            body={"model": self.model, "input": list(texts)},
            principal=principal,
            # The vectors of a fallback could not be compared with these.
            options={"timeout": PATIENCE, "disable_fallbacks": True, "metadata": {"selector": self.instance}},
        )


def shortened(text: str) -> str:
    """As much of a text as is compared."""
    text = text.strip()
    return text if len(text) <= HEAD + TAIL else f"{text[:HEAD]}\n{text[-TAIL:]}"


async def _cosines(vector: Vector, others: Sequence[Vector]) -> list[float]:
    scores, made = [], 0
    for other in others:
        if len(other) != len(vector):
            raise ProtocolError("The embedding model's vectors differ in length from those of the examples.")
        scores.append(sum(map(mul, other, vector)))
        made += len(other)
        if made > TURN:
            await asyncio.sleep(0)
            made = 0
    return scores


def _vectors(found: Any, count: int) -> list[Vector]:
    """So many vectors of length 1, in the order of the texts. Raises `ProtocolError`.

    `found` are vectors, or the reply of `/v1/embeddings` that holds them.
    """
    try:
        if isinstance(found, Reply):
            found = [one["embedding"] for one in sorted(found.body["data"], key=lambda one: one.get("index", 0))]
        sizes = {len(vector) for vector in found}
        if len(found) == count and len(sizes) == 1 and all(sizes) and all(all(map(isfinite, one)) for one in found):
            return [_unit(vector) for vector in found]
    except (TypeError, KeyError, AttributeError, OverflowError, ProtocolError):
        pass
    raise ProtocolError("The embedding model did not answer with one vector of numbers for each text.")


def _unit(vector: Vector) -> Vector:
    """The same direction at length 1; a vector of zeros has none, and is near nothing."""
    length = sqrt(sum(map(mul, vector, vector)))
    return [value / length for value in vector] if length else vector
