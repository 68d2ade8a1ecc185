"""What the filter knows without being told: phrases by category, and prebuilt patterns by name.

The names are those of LiteLLM's filter: https://docs.litellm.ai/docs/proxy/guardrails/litellm_content_filter
"""

from __future__ import annotations

from collections.abc import Callable

_WHOM = r"(?:you|him|her|them|myself|everyone|everybody|someone|somebody|people|a person|my \w{1,20}+)"
_GROUPS = (
    r"(?:jews|muslims|christians|hindus|black people|blacks|white people|asians|arabs|africans|mexicans|immigrants"
    r"|refugees|gays|lesbians|homosexuals|trans people|women|roma|gypsies|disabled people|foreigners)"
)
CATEGORIES: dict[str, dict[int, tuple[str, ...]]] = {
    "violence": {
        3: (
            rf"how (?:to|do i|can i) (?:kill|murder|strangle|stab|poison|torture|kidnap) {_WHOM}",
            rf"(?:i will|i'll|i am going to|i'm going to|gonna) (?:kill|murder|strangle|stab|shoot|behead) {_WHOM}",
            r"shoot up (?:a|the|my) (?:school|church|mosque|synagogue|office|mall|concert)",
            r"(?:plan|commit|carry out) a (?:mass shooting|massacre|school shooting|terror attack)",
        ),
        2: (
            r"behead(?:ed|ing|ings)?",
            r"dismember(?:ed|ing|ment)?",
            rf"(?:torture|slaughter|butcher|massacre)d? {_WHOM}",
            r"mass shooting",
            r"murder-suicide",
        ),
        1: (r"kill(?:s|ed|ing)?", r"murder(?:s|ed|ing|er)?", r"stab(?:s|bed|bing)?", r"assassinat(?:e|ed|ion)"),
    },
    "hate": {
        3: (
            rf"(?:kill|exterminate|gas|lynch|deport|eradicate) (?:all |the )(?:the )?{_GROUPS}",
            rf"{_GROUPS} are (?:all )?(?:vermin|subhuman|animals|parasites|cockroaches|filth)",
            rf"{_GROUPS} (?:do not|don't) deserve (?:to live|rights)",
        ),
        2: (r"white power", r"sieg heil", r"heil hitler", r"race war", r"master race", rf"i hate (?:all )?{_GROUPS}"),
        1: (r"ethnic cleansing", r"racial superiority", r"inferior race"),
    },
    "self_harm": {
        3: (
            r"how (?:to|do i|can i|should i) (?:kill myself|commit suicide|end my (?:own )?life|hang myself|overdose)",
            r"(?:best|easiest|painless|quickest) (?:way|method)s? to (?:die|kill (?:my|your)self|commit suicide)",
            r"(?:i want to|i'm going to|i am going to|i will) (?:kill myself|end my life|commit suicide)",
        ),
        2: (
            r"(?:commit|committing|committed) suicide",
            r"suicide (?:note|method|methods|pact|plan)",
            r"(?:cut|cutting|burn|burning|hurt|hurting|starve|starving) myself",
            r"self[- ]harm(?:ing)?",
        ),
        1: (r"suicid(?:e|al)", r"thinspo", r"pro-ana"),
    },
    "sexual": {
        3: (
            r"(?:child|kiddie|underage|preteen|minor) (?:porn|pornography|nudes|erotica)",
            r"sex(?:ual)? (?:acts? )?(?:content )?(?:with|of|involving) (?:a )?(?:child|children|minors?|kids?)",
            r"rape (?:porn|fantasy|fantasies)",
        ),
        2: (
            r"porn(?:o|ography|ographic)?",
            r"hardcore sex",
            r"(?:anal|oral|explicit) sex",
            r"blow ?job",
            r"hand ?job",
            r"gang ?bang",
            r"masturbat(?:e|es|ed|ing|ion)",
            r"nude (?:pics|pictures|photos)",
            r"erotic (?:story|roleplay|fiction)",
        ),
        1: (r"sex(?:y|ual)?", r"nude(?:s|ity)?", r"naked", r"erotic(?:a)?"),
    },
    "illegal_weapons": {
        3: (
            r"(?:make|build|assemble|cook) (?:a |an |some )?"
            r"(?:pipe bomb|nail bomb|bomb|explosives?|nerve agent|ghost gun|molotov(?: cocktail)?|sarin|ricin)",
            r"(?:buy|get|order) (?:a |an )?(?:untraceable|unregistered|illegal) (?:gun|firearm|weapon)",
        ),
        2: (r"pipe bomb", r"nerve agent", r"ghost gun", r"molotov cocktail", r"dirty bomb"),
        1: (r"explosives?", r"detonators?", r"silencers?"),
    },
}
"""Phrases by category and severity. `illegal_weapons` is on only where it is asked for."""
DEFAULT_CATEGORIES = ("violence", "hate", "self_harm", "sexual")


def luhn(text: str) -> bool:
    """Whether the digits of a text end in the check digit of ISO/IEC 7812."""
    digits = [int(char) for char in text if char.isdigit()]
    doubled = [digit * 2 - 9 if digit > 4 else digit * 2 for digit in digits[-2::-2]]
    return 12 < len(digits) < 20 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _phone(text: str) -> bool:
    return 7 <= sum(char.isdigit() for char in text) <= 15


_SPACED = r"(?<![\d-])(?:{0}\d{{2}}(?:[ -]?\d{{4}}){{3}})(?![\d-])"
_PREBUILT: dict[str, tuple[str, Callable[[str], bool] | None]] = {
    "email": (r"(?<![\w.%+-])[\w.%+-]{1,64}+@[A-Za-z0-9-]{1,63}+(?:\.[A-Za-z0-9-]{1,63}+){1,8}+", None),
    "phone": (r"(?<![\w.-])(?:\+\d{1,3}[ .-]?)?(?:\(\d{3}\)|\d{3})[ .-]?\d{3}[ .-]\d{4}(?![\w-])|"
              r"(?<![\w.])\+\d{1,3}(?:[ .-]?+\d{2,4}+){2,5}+(?![\w-])", _phone),
    "credit_card": (r"(?<!\d)(?:\d{4}[ -]\d{4}[ -]\d{4}[ -]\d{4}|\d{4}[ -]\d{6}[ -]\d{5}|\d{13,19}+)(?!\d)", luhn),
    "visa": (_SPACED.format(r"4\d"), luhn),
    "mastercard": (_SPACED.format(r"(?:5[1-5]|2[2-7])"), luhn),
    "amex": (r"(?<![\d-])3[47]\d{2}[ -]?\d{6}[ -]?\d{5}(?![\d-])", luhn),
    "us_ssn": (r"(?<![\d-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])", None),
    "ipv4": (r"(?<![\w.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?!\w|\.\d)", None),
    "aws_access_key": (r"(?<![A-Z0-9])(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}(?![A-Z0-9])", None),
    "github_token": (r"\b(?:ghp_|gho_|ghu_|ghs_|ghr_|github_pat_)[A-Za-z0-9_]{22,255}+", None),
    "openai_api_key": (r"(?<![\w-])sk-(?!ant-)[A-Za-z0-9_-]{20,200}+", None),
    "anthropic_api_key": (r"(?<![\w-])sk-ant-[A-Za-z0-9_-]{20,200}+", None),
    "google_api_key": (r"(?<![\w-])AIza[A-Za-z0-9_-]{35}(?![\w-])", None),
    "slack_token": (r"(?<![\w-])xox[abeoprs]-[A-Za-z0-9-]{10,250}+", None),
    "stripe_key": (r"\b(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{16,250}+", None),
    "jwt": (r"(?<![\w-])eyJ[\w-]{10,500}+\.eyJ[\w-]{10,2000}+\.[\w-]{10,1000}+", None),
    "private_key": (r"-----BEGIN (?:[A-Z]{2,10} ){0,2}PRIVATE KEY-----", None),
}  # fmt: skip
_KEYS = ("aws_access_key", "github_token", "openai_api_key", "anthropic_api_key", "google_api_key", "slack_token",
         "stripe_key")  # fmt: skip
PREBUILT = _PREBUILT | {"api_key": ("|".join(f"(?:{_PREBUILT[name][0]})" for name in _KEYS), None)}
"""Named patterns, and what must hold of a match. `api_key` is all the vendors' keys in one."""
