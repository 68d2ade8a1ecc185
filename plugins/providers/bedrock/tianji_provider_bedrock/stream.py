"""`ConverseStream`'s events as chat chunks.

Docs: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStreamOutput.html
"""

from typing import Any

from tianji import END, Call, Decoder, Event, Usage, chunk, decode_json, usage_to_openai

from .content import KEPT, PLAIN, annotations, finish_reason, image, joined, read_usage, thinking
from .errors import from_exception, is_exception
from .names import originals
from .shapes import Body, an_object, dicts, text

Chunks = list[Body]


def stream_to_chat(call: Call) -> Decoder:
    """Bedrock's events in, chunks out. The tokens come after the stop reason, and both leave in one last chunk."""
    state = _Stream(originals(call.body))
    chunks: Chunks = []
    while True:
        event = yield chunks
        chunks = state.close() if event == END else state.take(event)


class _Block:
    """One open block of content: what can be told only when it is over."""

    def __init__(self, start: int) -> None:
        self.start = start
        """Where in the text of the whole answer it begins."""
        self.kind = "text"
        self.head: Body = {}
        self.position = 0
        """Of a tool's call among the calls."""
        self.pieces: list[str] = []
        self.signature = ""
        self.redacted: list[str] = []
        self.citations: list[Body] = []
        self.results: list[Body] = []


class _Stream:
    def __init__(self, names: dict[str, str]) -> None:
        self.names = names
        self.blocks: dict[int, _Block] = {}
        self.calls = 0
        self.images = 0
        self.length = 0
        self.last_text = 0
        """Where the latest text block began."""
        self.fields: Body = {}
        self.reason: str | None = None
        self.usage: Usage | None = None
        self.closed = False

    def take(self, event: Event) -> Chunks:
        if is_exception(event.name):
            raise from_exception(event.name, event.data)
        data = event.data
        if not isinstance(data, dict):
            return []
        index = data.get("contentBlockIndex")
        if event.name == "contentBlockDelta" and isinstance(index, int):
            return self._delta(self._block(index), an_object(data.get("delta")))
        if event.name == "contentBlockStart" and isinstance(index, int):
            return self._start(self._block(index), an_object(data.get("start")))
        if event.name == "contentBlockStop" and isinstance(index, int):
            return self._stop(self.blocks.pop(index, None))
        if event.name == "messageStop":
            self.reason = text(data.get("stopReason")) or None
            self._keep(data)
        elif event.name == "metadata":
            self._keep(data)
            self.usage = read_usage(data.get("usage"), self.fields.get("additionalModelResponseFields"))
            return self.close()
        return []  # messageStart, and what is yet to be invented

    def _keep(self, data: Body) -> None:
        self.fields |= {field: data[field] for field in KEPT if data.get(field)}

    def _block(self, index: int) -> _Block:
        block = self.blocks.get(index)
        if block is None:
            block = self.blocks[index] = _Block(self.length)
        return block

    # -- blocks --------------------------------------------------------------------------------------------------------

    def _start(self, block: _Block, start: Body) -> Chunks:
        block.kind, head = next(((kind, value) for kind, value in start.items()), ("text", None))
        block.head = an_object(head)
        if block.kind != "toolUse" or block.head.get("type") == "server_tool_use":
            return []
        block.position, self.calls = self.calls, self.calls + 1
        name = text(block.head.get("name"))
        function = {"name": self.names.get(name, name), "arguments": ""}
        call = {"index": block.position, "id": text(block.head.get("toolUseId")), "type": "function"}
        return [chunk({"tool_calls": [{**call, "function": function}]})]

    def _delta(self, block: _Block, delta: Body) -> Chunks:
        if isinstance(said := delta.get("text"), str):
            return self._say(block, said)
        if isinstance(call := delta.get("toolUse"), dict):
            return self._arguments(block, text(call.get("input")))
        if isinstance(thought := delta.get("reasoningContent"), dict):
            return self._think(block, thought)
        if isinstance(citation := delta.get("citation"), dict):
            block.citations.append(citation)
        elif isinstance(delta.get("toolResult"), list):
            block.results += dicts(delta["toolResult"])
        elif isinstance(drawn := delta.get("image"), dict):
            block.pieces += [piece] if (piece := text(an_object(drawn.get("source")).get("bytes"))) else []
        return []

    def _say(self, block: _Block, said: str) -> Chunks:
        if not said:
            return []
        self.last_text = block.start
        self.length += len(said)
        return [chunk({"content": said})]

    def _arguments(self, block: _Block, piece: str) -> Chunks:
        if not piece:
            return []
        block.pieces.append(piece)
        if block.kind != "toolUse" or block.head.get("type") == "server_tool_use":
            return []  # told whole when the block ends
        return [chunk({"tool_calls": [{"index": block.position, "function": {"arguments": piece}}]})]

    def _think(self, block: _Block, thought: Body) -> Chunks:
        block.kind = "reasoningContent"
        block.signature += text(thought.get("signature"))
        if redacted := text(thought.get("redactedContent")):
            block.redacted.append(redacted)
        if not (said := text(thought.get("text"))):
            return []
        block.pieces.append(said)
        return [chunk({"reasoning_content": said})]

    def _stop(self, block: _Block | None) -> Chunks:
        """A block is over: what can only be told whole."""
        if block is None:
            return []
        if block.kind == "reasoningContent":
            made = thinking("".join(block.pieces), block.signature, joined(block.redacted))
            return [] if made is None else [chunk({"thinking_blocks": [made]})]
        if block.kind == "image":
            return self._image(block)
        if block.kind == "toolUse" and block.head.get("type") != "server_tool_use":
            if block.pieces:
                return []
            return [chunk({"tool_calls": [{"index": block.position, "function": {"arguments": "{}"}}]})]
        if block.kind == "toolUse":
            return [chunk({"provider_content": [{"toolUse": {**block.head, "input": _input(block.pieces)}}]})]
        if block.kind == "toolResult":
            return [chunk({"provider_content": [{"toolResult": {**block.head, "content": block.results}}]})]
        return self._cited(block)

    def _image(self, block: _Block) -> Chunks:
        if not block.pieces:
            return []
        drawn = image(block.head.get("format"), joined(block.pieces), self.images)
        self.images += 1
        return [chunk({"images": [drawn]})]

    def _cited(self, block: _Block) -> Chunks:
        if not block.citations:
            return []
        # Nova's citations have no text of their own: they are about the text before them.
        start = block.start if self.length > block.start else self.last_text
        delta: Body = {"citations": block.citations}
        if found := annotations(block.citations, start, self.length):
            delta["annotations"] = found
        return [chunk(delta)]

    # -- the end -------------------------------------------------------------------------------------------------------

    def close(self) -> Chunks:
        """The last chunk. None without a stop reason, which the kernel takes for a stream that was cut short."""
        usage, self.usage = self.usage, None
        if self.reason is None or self.closed:
            return [] if usage is None else [_only(usage)]
        chunks = [made for block in self.blocks.values() for made in self._stop(block)]  # of those nobody closed
        self.blocks.clear()
        self.closed = True
        finish = finish_reason(self.reason, calls=self.calls, said=bool(self.length or self.images))
        if self.reason not in PLAIN:
            self.fields["stopReason"] = self.reason
        delta: Body = {"provider_specific_fields": self.fields} if self.fields else {}
        return [*chunks, chunk(delta, finish, usage=usage)]


def _only(usage: Usage) -> Body:
    """A chunk of nothing but tokens."""
    return {**chunk({}), "choices": [], "usage": usage_to_openai(usage)}


def _input(pieces: list[str]) -> Any:
    """A server tool's input, which came as text."""
    try:
        return decode_json("".join(pieces) or "{}")
    except ValueError:
        return {"raw_arguments": "".join(pieces)}
