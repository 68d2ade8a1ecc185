"""OpenAI messages as Gemini `contents`: roles, parts, media, function calls and their results.

Docs: https://ai.google.dev/api/caching#Content, https://ai.google.dev/gemini-api/docs/function-calling,
https://ai.google.dev/gemini-api/docs/thought-signatures and https://ai.google.dev/gemini-api/docs/file-input-methods
"""

from base64 import b64encode
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote_to_bytes

from tianji import BadRequest, decode_json

from .models import THREE

Part = dict[str, Any]
Drop = Callable[..., None]

UNSIGNED = "skip_thought_signature_validator"
"""Google's documented stand-in for a signature: for a function call that another model made, or whose signature the
client lost. Gemini 3 refuses an unsigned call of the current turn."""

# By file extension. The standard library's `mimetypes` reads the machine's tables, and `encode` must be pure.
MIME_TYPES = {
    "aac": "audio/aac", "aiff": "audio/aiff", "avi": "video/avi", "avif": "image/avif", "bmp": "image/bmp",
    "css": "text/css", "csv": "text/csv", "flac": "audio/flac", "flv": "video/x-flv", "gif": "image/gif",
    "heic": "image/heic", "heif": "image/heif", "htm": "text/html", "html": "text/html", "jpeg": "image/jpeg",
    "jpg": "image/jpeg", "json": "application/json", "m4a": "audio/m4a", "md": "text/md", "mov": "video/mov",
    "mp3": "audio/mp3", "mp4": "video/mp4", "mpeg": "video/mpeg", "mpg": "video/mpg", "ogg": "audio/ogg",
    "pdf": "application/pdf", "png": "image/png", "txt": "text/plain", "wav": "audio/wav", "webm": "video/webm",
    "webp": "image/webp", "wmv": "video/wmv", "xml": "text/xml", "3gp": "video/3gpp",
}  # fmt: skip


class Conversation:
    """Builds `contents` and the system instruction from messages, in order.

    Args:
        generation: Of the model asked; decides about ids, signatures and where a tool's images go.
        base: The API's base URL, for files that are named `files/…`.
        drop: Told the names of what cannot be carried.
    """

    def __init__(self, *, generation: int, base: str, drop: Drop) -> None:
        self.generation = generation
        self.base = base
        self.drop = drop
        self.system: list[Part] = []
        self.contents: list[dict[str, Any]] = []
        self._kind = ""
        self._names: dict[str, str] = {}

    def add(self, message: dict[str, Any], path: str) -> None:
        """Append one message; `path` names it in errors (`messages[3]`)."""
        role = message.get("role")
        if message.get("name") and role != "function":
            self.drop("messages.name")
        if role in ("system", "developer"):
            self.system += [part for part in self._content(message, path) if part.get("text") != ""]
        elif role in ("tool", "function"):
            self._append("tool", "user", self._result(message, path))
        elif role == "assistant":
            self._append("model", "model", self._answer(message, path))
        else:
            self._append("user", "user", self._content(message, path))

    def finish(self) -> None:
        """Call after the last message. A request needs contents, so a lone system prompt is sent as the user's."""
        if not self.contents and self.system:
            self.contents, self.system = [{"role": "user", "parts": self.system}], []

    def _append(self, kind: str, role: str, parts: list[Part]) -> None:
        if not parts:
            return
        # Results of functions keep a content of their own: text beside them would begin a new turn.
        if self._kind == kind:
            self.contents[-1]["parts"] += parts
        else:
            self.contents.append({"role": role, "parts": parts})
            self._kind = kind

    # -- what is in a message ------------------------------------------------------------------------------------------

    def _content(self, message: dict[str, Any], path: str) -> list[Part]:
        content = message.get("content")
        if content is None:
            return []
        if isinstance(content, str):
            return [{"text": content}]
        return [self._part(part, f"{path}.content[{index}]") for index, part in enumerate(content)]

    def _part(self, part: Any, path: str) -> Part:
        if isinstance(part, str):
            return {"text": part}
        if "cache_control" in part:
            self.drop("cache_control")  # Gemini caches by itself; an explicit cache is made beforehand
        kind = part.get("type")
        if kind in ("text", "input_text", "output_text"):
            return {"text": _text(part.get("text"), f"{path}.text")}
        if kind == "refusal":
            return {"text": _text(part.get("refusal"), f"{path}.refusal")}
        if kind in ("image_url", "video_url"):
            box = part.get(kind)
            box = box if isinstance(box, dict) else {"url": box}
            return self._media(box.get("url"), box.get("format"), f"{path}.{kind}.url")
        if kind == "input_audio":
            audio = _object(part.get("input_audio"), f"{path}.input_audio")
            mime = _text(audio.get("format", "wav"), f"{path}.input_audio.format")
            data = _text(audio.get("data"), f"{path}.input_audio.data")
            return _inline(mime if "/" in mime else f"audio/{mime}", data)
        if kind == "file":
            return self._file(_object(part.get("file"), f"{path}.file"), f"{path}.file")
        raise BadRequest(f"Gemini cannot be sent a content part of type {kind!r}.", param=f"{path}.type")

    def _file(self, file: dict[str, Any], path: str) -> Part:
        mime = file.get("format") or MIME_TYPES.get(_extension(file.get("filename") or ""))
        if (data := file.get("file_data")) is not None:
            if isinstance(data, str) and not data.startswith("data:"):
                return _inline(mime or "application/pdf", data)
            return self._media(data, file.get("format"), f"{path}.file_data")
        return self._media(file.get("file_id") or file.get("file_url"), mime, f"{path}.file_id")

    def _media(self, url: Any, mime: Any, path: str) -> Part:
        """A data URL as inline data; an address that Google can read itself as a reference."""
        if not isinstance(url, str):
            raise BadRequest("Expected a data URL, an http(s) or gs URL, or the name of a Gemini file.", param=path)
        if url.startswith("data:"):
            head, comma, data = url[5:].partition(",")
            if not comma:
                raise BadRequest("The data URL has no data.", param=path)
            kind, *options = head.split(";")
            if "base64" not in options:
                data = b64encode(unquote_to_bytes(data)).decode("ascii")
            return _inline(mime or kind or "application/octet-stream", data)
        if url.startswith("files/"):
            url = f"{self.base}/{url}"
        elif not url.startswith(("https://", "http://", "gs://")):
            raise BadRequest(
                "Gemini knows files by `files/…`, https:// or gs:// addresses, or takes them as data URLs.", param=path
            )
        reference = {"fileUri": url}
        if mime := mime or MIME_TYPES.get(_extension(url.partition("?")[0])):
            reference["mimeType"] = mime
        return {"fileData": reference}

    # -- the model's own turns -----------------------------------------------------------------------------------------

    def _answer(self, message: dict[str, Any], path: str) -> list[Part]:
        """Text, images and function calls of an earlier answer, each with the signature that came with it."""
        parts = [part for part in self._content(message, path) if part.get("text") != ""]
        signatures = _specific(message).get("thought_signatures")
        if isinstance(signatures, list) and signatures and isinstance(signatures[-1], str):
            # Pieces of a text were joined on the way out; what Gemini checks is that the text's end is signed.
            if not parts:
                parts.append({"text": ""})
            parts[-1] = {**parts[-1], "thoughtSignature": signatures[-1]}
        for image in message.get("images") or ():
            part = self._part(image, f"{path}.images")
            if signature := signature_of(image):
                part["thoughtSignature"] = signature
            parts.append(part)
        calls = message.get("tool_calls") or []
        if isinstance(legacy := message.get("function_call"), dict):
            calls = [{"function": legacy}]
        for index, call in enumerate(calls):
            parts.append(self._call(call, first=index == 0, path=f"{path}.tool_calls[{index}]"))
        return parts

    def _call(self, call: Any, *, first: bool, path: str) -> Part:
        function = _object(_object(call, path).get("function"), f"{path}.function")
        name = _text(function.get("name"), f"{path}.function.name")
        part: Part = {"functionCall": {"name": name, "args": _arguments(function.get("arguments"), path)}}
        if isinstance(id := call.get("id"), str):
            self._names[id] = name
            if self.generation >= THREE:
                part["functionCall"]["id"] = id
        if signature := signature_of(call):
            part["thoughtSignature"] = signature
        elif first and self.generation >= THREE:
            part["thoughtSignature"] = UNSIGNED
        return part

    def _result(self, message: dict[str, Any], path: str) -> list[Part]:
        """A `functionResponse`. Images go inside it where the model knows that (Gemini 3), beside it elsewhere."""
        id = message.get("tool_call_id")
        name = (self._names.get(id) if isinstance(id, str) else None) or message.get("name")
        if not name:
            raise BadRequest(
                f"No earlier assistant message has a tool call with the id {id!r}; Gemini needs the function's name.",
                param=f"{path}.tool_call_id",
            )
        parts = self._content(message, path)
        media = [part for part in parts if "text" not in part]
        response: Part = {"name": name, "response": _response("".join(part.get("text", "") for part in parts))}
        if isinstance(id, str) and self.generation >= THREE:
            response["id"] = id
            if media:
                response["parts"], media = media, []
        return [{"functionResponse": response}, *media]


def signature_of(box: Any) -> str | None:
    """The thought signature that travels with a tool call or an image.

    It is read from where this provider puts it, and from where Google's own OpenAI-compatible endpoint does
    (https://ai.google.dev/gemini-api/docs/openai).
    """
    signature = _specific(box).get("thought_signature")
    if signature is None and isinstance(box, dict):
        google = (box.get("extra_content") or {}).get("google")
        signature = google.get("thought_signature") if isinstance(google, dict) else None
    return signature if isinstance(signature, str) and signature else None


def _specific(box: Any) -> dict[str, Any]:
    fields = box.get("provider_specific_fields") if isinstance(box, dict) else None
    return fields if isinstance(fields, dict) else {}


def _inline(mime: str, data: str) -> Part:
    return {"inlineData": {"mimeType": mime, "data": data}}


def _extension(name: str) -> str:
    return name.rpartition(".")[2].lower()


def _arguments(value: Any, path: str) -> dict[str, Any]:
    """A call's arguments as an object; Gemini takes nothing else."""
    if value is None or value == "":
        return {}
    if isinstance(value, str):
        try:
            value = decode_json(value)
        except ValueError:
            raise BadRequest("The arguments are not JSON.", param=f"{path}.function.arguments") from None
    return _object(value, f"{path}.function.arguments")


def _response(text: str) -> dict[str, Any]:
    """A function's result as an object: itself where it is one, else under `result`."""
    if text.lstrip().startswith("{"):
        try:
            value = decode_json(text)
        except ValueError:
            pass
        else:
            if isinstance(value, dict):
                return value
    return {"result": text}


def _text(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise BadRequest(f"Invalid type for '{path}': expected a string.", param=path, code="invalid_type")
    return value


def _object(value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadRequest(f"Invalid type for '{path}': expected an object.", param=path, code="invalid_type")
    return value
