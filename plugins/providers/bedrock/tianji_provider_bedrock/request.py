"""A chat request as the body of `Converse` and `ConverseStream`: everything but the messages themselves.

Docs: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html
"""

import re
from typing import Any

from tianji import BadRequest, Call, Deployment, encode_json

from .messages import Conversation
from .models import Model, model_of
from .names import safe_name
from .reasoning import THINKING_TOKENS, budget, reasoning, sampling
from .shapes import Body, Drop, an_object, need_object, need_text

OWN = frozenset({
    "inferenceConfig", "toolConfig", "guardrailConfig", "performanceConfig", "requestMetadata", "promptVariables",
    "additionalModelRequestFields", "additionalModelResponseFieldPaths", "serviceTier", "outputConfig",
})  # fmt: skip
"""Converse's own fields: merged over what was made from OpenAI's."""

READ = frozenset({
    "model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "temperature", "top_p",
    "top_k", "stop", "tools", "tool_choice", "functions", "function_call", "parallel_tool_calls", "response_format",
    "reasoning_effort", "thinking", "service_tier", "web_search_options", "extra_body",
})  # fmt: skip

REFUSED = frozenset({
    "audio", "best_of", "echo", "frequency_penalty", "logit_bias", "logprobs", "metadata", "modalities", "n",
    "prediction", "presence_penalty", "prompt_cache_key", "prompt_cache_retention", "safety_identifier", "seed",
    "store", "suffix", "top_logprobs", "user", "verbosity",
})  # fmt: skip
"""OpenAI's own fields that Converse has no counterpart for: left out and named. What is in none of these sets is the
model's own, and goes into `additionalModelRequestFields`."""

NEUTRAL: Body = {"n": 1, "frequency_penalty": 0, "presence_penalty": 0, "logprobs": False, "store": False,
                 "logit_bias": {}, "modalities": ["text"]}  # fmt: skip
"""Values that ask for what happens anyway; leaving those out drops nothing."""

_FIELD = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_GONE = "This tool is no longer available. Do not call it."


def converse_request(call: Call, deployment: Deployment) -> Body:
    """The request body. Raises `BadRequest` for what no mapping can save, names the rest with `call.drop`."""
    chat = asked(call, deployment)
    model = model_of(deployment)
    conversation = Conversation(model, call.drop)
    conversation.read(chat.get("messages") or ())
    request: Body = {"messages": conversation.messages} if conversation.messages else {}
    if conversation.system:
        request["system"] = conversation.system
    extra: Body = {}
    if config := tool_config(chat, conversation, extra, call.drop):
        request["toolConfig"] = config
    extra.update(reasoning(chat, model, request, call.drop))
    if config := inference_config(chat, model, extra, call.drop):
        request["inferenceConfig"] = config
    if config := text_format(chat.get("response_format"), call.drop):
        request["outputConfig"] = {"textFormat": config}
    if tier := service_tier(chat.get("service_tier"), call.drop):
        request["serviceTier"] = {"type": tier}
    for field, value in chat.items():
        if field in REFUSED:
            if not (field in NEUTRAL and NEUTRAL[field] == value):
                call.drop(field)
        elif field.startswith("aws_"):
            call.drop(field if _FIELD.fullmatch(field) else "unknown")  # whose account is not the client's to say
        elif field not in READ and field not in OWN:
            extra[field] = value
    if extra:
        request["additionalModelRequestFields"] = extra
    if model.family == "claude" and an_object(extra.get("thinking")).get("type") in ("enabled", "adaptive"):
        request["additionalModelResponseFieldPaths"] = [THINKING_TOKENS]
    for source in ({field: chat[field] for field in OWN if field in chat}, deployment.extra_body):
        for field, value in source.items():
            request[field] = _merged(request.get(field), value)
    return request


def asked(call: Call, deployment: Deployment) -> Body:
    """What the client asks for: the deployment's defaults under the call's fields, nulls and unwanted fields left out.

    `extra_body` is unpacked, as clients without an SDK send it literally.
    """
    body = {**deployment.defaults, **call.body}
    if isinstance(extra := body.pop("extra_body", None), dict):
        body.update(extra)
    for field in sorted(deployment.drop & body.keys()):
        del body[field]
        call.drop(field if _FIELD.fullmatch(field) else "unknown")
    return {field: value for field, value in body.items() if value is not None}


def _merged(built: Any, given: Any) -> Any:
    return {**built, **given} if isinstance(built, dict) and isinstance(given, dict) else given


# -- inferenceConfig ---------------------------------------------------------------------------------------------------


def inference_config(chat: Body, model: Model, extra: Body, drop: Drop) -> Body:
    """`inferenceConfig`; `top_k`, which it has no place for, goes to the additional fields."""
    values: Body = {field: chat[field] for field in ("temperature", "top_p", "top_k") if field in chat}
    if (limit := chat.get("max_completion_tokens", chat.get("max_tokens"))) is not None:
        values["max_tokens"] = limit
    for field in sorted(sampling(values, model, extra)):
        # The value that it has anyway is no loss.
        if values.pop(field) != 1 or field in ("top_k", "max_tokens"):
            drop(field)
    config: Body = {}
    if "max_tokens" in values:
        reserved = budget(extra)
        enough = not isinstance(values["max_tokens"], int) or values["max_tokens"] > reserved
        config["maxTokens"] = values["max_tokens"] if enough else values["max_tokens"] + reserved
    if "temperature" in values:
        config["temperature"] = values["temperature"]
        if isinstance(values["temperature"], (int, float)) and values["temperature"] > 1:
            config["temperature"] = 1  # OpenAI's scale ends at 2, Bedrock's at 1
            drop("temperature")
    if "top_p" in values:
        config["topP"] = values["top_p"]
    stops = chat.get("stop")
    stops = [stops] if isinstance(stops, str) else stops if isinstance(stops, list) else []
    kept = [stop for stop in stops if isinstance(stop, str) and (stop.strip() if model.family == "claude" else stop)]
    if kept:
        config["stopSequences"] = kept
    if len(kept) != len(stops):
        drop("stop")  # Claude refuses sequences of white space, Bedrock empty ones
    if "top_k" in values:
        extra.update({"inferenceConfig": {"topK": values["top_k"]}} if model.family == "nova" else
                     {"top_k": values["top_k"]})  # fmt: skip
    return config


def service_tier(wanted: Any, drop: Drop) -> str | None:
    """OpenAI's tier under Bedrock's name; `auto` is what happens without one."""
    if wanted in ("default", "flex", "priority", "reserved"):
        return str(wanted)
    if wanted not in (None, "auto"):
        drop("service_tier")
    return None


def text_format(wanted: Any, drop: Drop) -> Body:
    """`outputConfig.textFormat` for a schema. JSON without a schema is not on offer."""
    if wanted is None:
        return {}
    kind = an_object(wanted).get("type")
    box = an_object(an_object(wanted).get("json_schema"))
    if kind != "json_schema" or not isinstance(box.get("schema"), dict):
        if kind != "text":
            drop("response_format")
        return {}
    definition: Body = {"schema": encode_json(_closed(box["schema"])).decode()}
    definition |= {field: box[field] for field in ("name", "description") if isinstance(box.get(field), str)}
    return {"type": "json_schema", "structure": {"jsonSchema": definition}}


def _closed(schema: Any) -> Any:
    """The schema with every object closed where it does not say: Bedrock refuses open ones, OpenAI's default.

    https://docs.aws.amazon.com/bedrock/latest/userguide/structured-output.html
    """
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _closed(value) if key not in ("const", "enum", "default") else value for key, value in schema.items()}
    if made.get("type") == "object" and "additionalProperties" not in made:
        made["additionalProperties"] = False
    return made


# -- toolConfig --------------------------------------------------------------------------------------------------------


def tool_config(chat: Body, conversation: Conversation, extra: Body, drop: Drop) -> Body:
    """`toolConfig`. Tools that earlier turns called are declared again: Bedrock refuses such a history otherwise."""
    model = conversation.model
    tools: list[Body] = []
    for index, tool in enumerate(chat.get("tools") or ()):
        tools += _tool(need_object(tool, f"tools[{index}]"), f"tools[{index}]", conversation)
    for index, function in enumerate(chat.get("functions") or ()):
        tools += _spec(need_object(function, f"functions[{index}]"), f"functions[{index}]", model)
    if "web_search_options" in chat:
        if model.family == "nova" and model.version >= (2, 0):
            tools.append({"systemTool": {"name": "nova_grounding"}})
        else:
            drop("web_search_options")
    choice = chat.get("tool_choice", chat.get("function_call"))
    if choice == "none":
        if not conversation.tools:
            return {}  # the way to say it
        if tools:
            drop("tool_choice")
    named = {an_object(tool.get("toolSpec")).get("name") for tool in tools}
    for name in conversation.tools:
        if name not in named:
            tools.append(
                {"toolSpec": {"name": name, "description": _GONE, "inputSchema": {"json": _schema({}, model)}}}
            )
    if not tools:
        return {}
    config: Body = {"tools": tools}
    if made := _choice(choice, drop):
        config["toolChoice"] = made
    if chat.get("parallel_tool_calls") is False and choice != "none":
        if model.family == "claude" and not made.keys() & {"any", "tool"}:
            extra["tool_choice"] = {"type": "auto", "disable_parallel_tool_use": True}
            config.pop("toolChoice", None)  # said by the model's own field now
        else:
            drop("parallel_tool_calls")
    return config


def _tool(tool: Body, path: str, conversation: Conversation) -> list[Body]:
    if not tool.keys().isdisjoint(("toolSpec", "systemTool", "cachePoint")):
        return [tool]  # already one of Bedrock's
    function = tool.get("function")
    if not isinstance(function, dict):
        conversation.drop("tools")
        return []
    marked = tool if tool.get("cache_control") else function
    if marked.get("cache_control") and conversation.model.family == "nova":
        conversation.drop("cache_control")  # Nova caches prompts, not tools
        return _spec(function, f"{path}.function", conversation.model)
    return _spec(function, f"{path}.function", conversation.model) + conversation.point(marked)


def _spec(function: Body, path: str, model: Model) -> list[Body]:
    spec: Body = {"name": safe_name(need_text(function.get("name"), f"{path}.name"))}
    if not spec["name"]:
        raise BadRequest("The tool has no name.", param=f"{path}.name")
    if isinstance(said := function.get("description"), str) and said:
        spec["description"] = said
    strict = function.get("strict") is True and model.family != "nova"
    schema = _schema(an_object(function.get("parameters")), model)
    spec["inputSchema"] = {"json": _closed(schema) if strict else schema}
    if strict:
        spec["strict"] = True
    return [{"toolSpec": spec}]


def _schema(schema: Body, model: Model) -> Body:
    """An input schema, which must be an object's. Nova knows three words at its top."""
    schema = {
        "type": "object",
        **({} if "$ref" in schema or schema.get("properties") else {"properties": {}}),
        **schema,
    }
    if model.family == "nova":
        kept = ("type", "properties", "required", "$defs", "definitions")
        schema = {key: value for key, value in schema.items() if key in kept}
    return schema


def _choice(choice: Any, drop: Drop) -> Body:
    if choice in (None, "none"):
        return {}
    if choice == "auto":
        return {"auto": {}}
    if choice in ("required", "any"):
        return {"any": {}}
    box = an_object(choice)
    if box.get("type") in ("auto", "any"):
        return {box["type"]: {}}
    if isinstance(allowed := box.get("allowed_tools"), dict):
        drop("tool_choice.allowed_tools")
        return {"any": {}} if allowed.get("mode") == "required" else {"auto": {}}
    name = box.get("function", box)
    name = name.get("name") if isinstance(name, dict) else None
    if isinstance(name, str) and name:
        return {"tool": {"name": safe_name(name)}}
    raise BadRequest("Expected none, auto, required or the name of a function.", param="tool_choice")
