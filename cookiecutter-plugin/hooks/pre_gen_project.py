"""Refuse answers that could not become a plugin."""

import re
import sys

NAME = {{ cookiecutter.name | tojson }}
DESCRIPTION = {{ cookiecutter.description | tojson }}

if not re.fullmatch(r"[a-z][a-z0-9]*(?:[-_][a-z0-9]+)*", NAME):
    sys.exit(f"{NAME!r} cannot name a plugin: small letters and digits, with single dashes or underscores between")
if re.search(r'["\\\n]', DESCRIPTION):
    sys.exit("the description is one line without double quotes and backslashes")
