"""{{ cookiecutter.__title }}: {{ cookiecutter.description.rstrip('.') }}.

Docs: https://docs.{{ cookiecutter.__folder }}.example/api
"""

from tianji import Op, OpenAICompatible


class {{ cookiecutter.__class }}(OpenAICompatible):
    name = "{{ cookiecutter.name }}"
    base_url = "https://api.{{ cookiecutter.__folder }}.example/v1"
    api_key_env = ("{{ cookiecutter.__variable }}_API_KEY",)
    api_base_env = ("{{ cookiecutter.__variable }}_API_BASE",)
    ops = frozenset({Op.CHAT})
    drop = frozenset({"logit_bias"})  # request fields that the vendor answers 400 to
    rename = {"max_completion_tokens": "max_tokens"}  # request fields that it calls otherwise
