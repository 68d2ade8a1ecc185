"""An OpenAI chat request as the body of `generateContent`.

Docs: https://ai.google.dev/api/generate-content, https://ai.google.dev/gemini-api/docs/thinking,
https://ai.google.dev/gemini-api/docs/structured-output and https://ai.google.dev/gemini-api/docs/function-calling
"""

import re
from typing import Any

from tianji import BadRequest, Call, Deployment

from .contents import Conversation, Drop
from .models import THREE, generation

Body = dict[str, Any]

CONFIG = {
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "seed": "seed",
    "n": "candidateCount",
    "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
    # Gemini's own, which clients send beside OpenAI's fields
    "thinking_config": "thinkingConfig",
    "speech_config": "speechConfig",
    "image_config": "imageConfig",
    "media_resolution": "mediaResolution",
    "response_schema": "responseSchema",
    "response_json_schema": "responseJsonSchema",
    "response_mime_type": "responseMimeType",
}
"""Fields of `generationConfig` that are carried as they are. The names on the right are understood as well."""

TOP = {
    "safety_settings": "safetySettings",
    "cached_content": "cachedContent",
    "labels": "labels",
}
"""The same for fields of the request itself."""

WRITTEN = frozenset({
    "model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "stop", "logprobs",
    "top_logprobs", "response_format", "tools", "tool_choice", "functions", "function_call", "reasoning_effort",
    "thinking", "modalities", "audio", "web_search_options", "service_tier", "extra_body", "generation_config",
    "generationConfig", "tool_config", "toolConfig", "serviceTier",
    *CONFIG, *CONFIG.values(), *TOP, *TOP.values(),
})  # fmt: skip

NO_LOSS: Body = {"store": False, "parallel_tool_calls": True, "logit_bias": {}}
"""Values that ask for what happens anyway; leaving those out drops nothing."""

BUDGETS = {"minimal": 128, "low": 1024, "medium": 2048, "high": 4096, "xhigh": 4096, "max": 4096}
LEVELS = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}

BUILT_IN = {
    "web_search": "googleSearch",
    "web_search_preview": "googleSearch",
    "google_search": "googleSearch",
    "code_interpreter": "codeExecution",
    "code_execution": "codeExecution",
    "url_context": "urlContext",
    "google_maps": "googleMaps",
}
NATIVE_TOOLS = frozenset({
    "googleSearch", "google_search", "googleSearchRetrieval", "google_search_retrieval", "codeExecution",
    "code_execution", "urlContext", "url_context", "googleMaps", "google_maps", "fileSearch", "file_search",
    "computerUse", "computer_use", "enterpriseWebSearch", "functionDeclarations", "function_declarations",
})  # fmt: skip

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_DATED = re.compile(r"_(\d{8}|\d{4}_\d\d_\d\d)$")


def chat_request(call: Call, deployment: Deployment, base: str) -> Body:
    """The request body. Raises `BadRequest` for what no mapping can save, names the rest with `call.drop`."""
    chat = asked(call, deployment)
    version = generation(deployment.model)
    conversation = Conversation(generation=version, base=base, drop=call.drop)
    for index, message in enumerate(chat.get("messages") or ()):
        conversation.add(message, f"messages[{index}]")
    conversation.finish()

    request: Body = {"contents": conversation.contents}
    if conversation.system:
        request["systemInstruction"] = {"parts": conversation.system}
    add_tools(request, chat, call.drop)
    if config := generation_config(chat, version, deployment.model, call.drop):
        request["generationConfig"] = config
    if tier := service_tier(chat.get("service_tier") or chat.get("serviceTier"), call.drop):
        request["serviceTier"] = tier
    for theirs, ours in TOP.items():
        value = chat.get(ours, chat.get(theirs))
        if value is not None:
            request[ours] = value
    for field, value in chat.items():
        if field not in WRITTEN and not (field in NO_LOSS and NO_LOSS[field] == value):
            call.drop(field if _NAME.fullmatch(field) else "unknown")
    for field, value in deployment.extra_body.items():
        built = request.get(field)
        request[field] = {**built, **value} if isinstance(built, dict) and isinstance(value, dict) else value
    return request


def asked(call: Call, deployment: Deployment) -> Body:
    """What the client asks for: the deployment's defaults under the call's fields, nulls and unwanted fields left out.

    `extra_body` is unpacked, as clients without an SDK send it literally; so is Google's own `extra_body.google`.
    """
    body = {**deployment.defaults, **call.body}
    extra = body.pop("extra_body", None)
    if isinstance(extra, dict):
        google = extra.get("google")
        body.update({key: value for key, value in extra.items() if key != "google"})
        body.update(google if isinstance(google, dict) else {})
    for field in deployment.drop & body.keys():
        del body[field]
        call.drop(field)
    return {field: value for field, value in body.items() if value is not None}


# -- generationConfig --------------------------------------------------------------------------------------------------


def generation_config(chat: Body, version: int, model: str, drop: Drop) -> Body:
    config: Body = {}
    for theirs, ours in CONFIG.items():
        value = chat.get(ours, chat.get(theirs))
        if value is not None:
            config[ours] = value
    if (limit := chat.get("max_completion_tokens", chat.get("max_tokens"))) is not None:
        config["maxOutputTokens"] = limit
    if stop := chat.get("stop"):
        config["stopSequences"] = [stop] if isinstance(stop, str) else stop
    if chat.get("logprobs"):
        config["responseLogprobs"] = True
        if top := chat.get("top_logprobs"):
            config["logprobs"] = top
    config.update(response_format(chat.get("response_format")))
    if "thinkingConfig" not in config and (thoughts := thinking(chat, version, model)):
        config["thinkingConfig"] = thoughts
    modalities = chat.get("modalities")
    if isinstance(modalities, list) and modalities != ["text"]:
        config["responseModalities"] = [str(modality).upper() for modality in modalities]
    if isinstance(audio := chat.get("audio"), dict):
        if isinstance(voice := audio.get("voice"), str):
            config.setdefault("speechConfig", {"voiceConfig": {"prebuiltVoiceConfig": {"voiceName": voice}}})
        if audio.get("format") not in (None, "pcm16"):
            drop("audio.format")  # speech comes as 16-bit PCM, always
    if resolution := media_resolution(chat.get("messages") or ()):
        config.setdefault("mediaResolution", resolution)
    given = chat.get("generationConfig", chat.get("generation_config"))
    return {**config, **given} if isinstance(given, dict) else config


def response_format(wanted: Any) -> Body:
    """JSON mode and schemas. A schema goes out untouched: Gemini passes over JSON Schema keywords it does not know."""
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if kind == "json_object":
        schema = wanted.get("response_schema")
    elif kind == "json_schema":
        box = wanted.get("json_schema")
        schema = box.get("schema") if isinstance(box, dict) else None
    elif wanted is None or kind == "text":
        return {}
    else:
        raise BadRequest(f"Gemini knows no response format {kind!r}.", param="response_format.type")
    config: Body = {"responseMimeType": "application/json"}
    if schema is not None:
        config["responseJsonSchema"] = schema
    return config


def thinking(chat: Body, version: int, model: str) -> Body | None:
    """`thinkingConfig` for `reasoning_effort`, or for Anthropic's `thinking` object where a client sends that."""
    effort, wanted = chat.get("reasoning_effort"), chat.get("thinking")
    if isinstance(effort, dict):
        effort = effort.get("effort")
    if effort is None and isinstance(wanted, dict):
        if wanted.get("type") == "disabled":
            effort = "none"
        else:
            budget = wanted.get("budget_tokens")
            return {"includeThoughts": True, **({"thinkingBudget": budget} if isinstance(budget, int) else {})}
    if effort is None:
        return None
    if effort in ("auto", "default"):
        return {"includeThoughts": True}
    if not isinstance(effort, str) or (effort != "none" and effort not in BUDGETS):
        raise BadRequest(f"Unknown reasoning effort {effort!r}; known: none, {', '.join(BUDGETS)}.",
                         param="reasoning_effort")  # fmt: skip
    if version >= THREE:
        # Thinking cannot be switched off from here on; only the Flash models go below `low`.
        least = "minimal" if "flash" in model else "low"
        level = least if effort in ("none", "minimal") else LEVELS[effort]
        return {"thinkingLevel": level, "includeThoughts": effort != "none"}
    if effort == "none":
        return {"thinkingBudget": 128 if "pro" in model else 0, "includeThoughts": False}  # 2.5 Pro refuses 0
    lite = effort == "minimal" and "lite" in model  # Flash-Lite refuses less than 512
    return {"thinkingBudget": 512 if lite else BUDGETS[effort], "includeThoughts": True}


def media_resolution(messages: Any) -> str | None:
    """Gemini sets the resolution for all images of a request at once: high if any asks for it, low if all do."""
    details = [
        part["image_url"].get("detail")
        for message in messages
        if isinstance(message.get("content"), list)
        for part in message["content"]
        if isinstance(part, dict) and isinstance(part.get("image_url"), dict)
    ]
    if "high" in details:
        return "MEDIA_RESOLUTION_HIGH"
    return "MEDIA_RESOLUTION_LOW" if details and set(details) == {"low"} else None


def service_tier(wanted: Any, drop: Drop) -> str | None:
    """OpenAI's tier under Gemini's name; `auto` is what happens without one."""
    if wanted in ("flex", "priority"):
        return str(wanted)
    if wanted in ("default", "standard"):
        return "standard"
    if wanted not in (None, "auto"):
        drop("service_tier")
    return None


# -- tools -------------------------------------------------------------------------------------------------------------


def add_tools(request: Body, chat: Body, drop: Drop) -> None:
    """`tools` and `toolConfig`: functions in one declaration list, built-in tools as entries of their own."""
    declarations: list[Body] = []
    entries: list[Body] = []
    for index, tool in enumerate(chat.get("tools") or ()):
        if not isinstance(tool, dict):
            raise BadRequest("Expected an object.", param=f"tools[{index}]", code="invalid_type")
        if tool.get("type") == "function":
            declarations.append(declaration(tool.get("function"), f"tools[{index}].function", drop))
        elif tool.get("type") is None and not tool.keys().isdisjoint(NATIVE_TOOLS):
            entries.append(tool)
        elif native := BUILT_IN.get(_DATED.sub("", str(tool.get("type")))):
            entries.append({native: {}})
            for option in tool.keys() - {"type", "name", "cache_control"}:
                drop(f"tools.{option}" if _NAME.fullmatch(option) else "tools.unknown")
        else:
            drop(f"tools.{kind}" if _NAME.fullmatch(kind := str(tool.get("type"))) else "tools.unknown")
    for index, function in enumerate(chat.get("functions") or ()):
        declarations.append(declaration(function, f"functions[{index}]", drop))
    if (options := chat.get("web_search_options")) is not None:
        if {"googleSearch": {}} not in entries:
            entries.append({"googleSearch": {}})
        if isinstance(options, dict):
            for option in options:
                drop(f"web_search_options.{option}" if _NAME.fullmatch(option) else "web_search_options.unknown")
    if declarations:
        entries.insert(0, {"functionDeclarations": declarations})
    if entries:
        request["tools"] = entries
    config: Body = {}
    choice = chat.get("tool_choice", chat.get("function_call"))
    if declarations and choice is not None:  # Gemini refuses a calling mode where there is nothing to call
        config["functionCallingConfig"] = calling_mode(choice)
    given = chat.get("toolConfig", chat.get("tool_config"))
    if config := {**config, **given} if isinstance(given, dict) else config:
        request["toolConfig"] = config


def declaration(function: Any, path: str, drop: Drop) -> Body:
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadRequest(f"Missing required parameter: '{path}.name'.", param=f"{path}.name",
                         code="missing_required_parameter")  # fmt: skip
    said: Body = {"name": function["name"]}
    if function.get("description"):
        said["description"] = function["description"]
    schema = function.get("parameters")
    # An object without properties is how OpenAI's clients say "no arguments"; Gemini says it by leaving it out.
    if isinstance(schema, dict) and any(schema[key] for key in schema.keys() - {"type", "$schema"}):
        said["parametersJsonSchema"] = schema
    if function.get("strict"):
        drop("tools.function.strict")
    return said


def calling_mode(choice: Any) -> Body:
    if isinstance(choice, str):
        modes = {"none": "NONE", "auto": "AUTO", "required": "ANY", "any": "ANY"}
        if choice in modes:
            return {"mode": modes[choice]}
    elif isinstance(choice, dict):
        if isinstance(allowed := choice.get("allowed_tools"), dict):
            names = [_function_name(tool) for tool in allowed.get("tools") or ()]
            # `AUTO` takes no list of names; `VALIDATED` is the mode that may answer in text and does.
            mode = "ANY" if allowed.get("mode") == "required" else "VALIDATED"
            return {"mode": mode, "allowedFunctionNames": [name for name in names if name]}
        if name := _function_name(choice):
            return {"mode": "ANY", "allowedFunctionNames": [name]}
    raise BadRequest("Expected none, auto, required or the name of a function.", param="tool_choice")


def _function_name(tool: Any) -> str | None:
    box = tool.get("function", tool) if isinstance(tool, dict) else None
    name = box.get("name") if isinstance(box, dict) else None
    return name if isinstance(name, str) else None
