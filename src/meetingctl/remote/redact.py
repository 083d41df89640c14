"""Take passwords, tokens and keys out of texts that leave a device. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

MASK = "***"
# Shorter values stand in too many other words to be looked for.
_SHORTEST_LITERAL = 6

# In `KEY=value`, `key: value` and JSON; a quoted value ends at its quote, a bare one at white space. A name is looked
# at once, from its start and never backwards, so that a long line of names takes no longer than others.
_ASSIGNED = re.compile(
    r"""(?P<head>(?P<quote>["']?)(?<![\w.-])"""
    r"(?=[\w.-]{0,80}?(?:pass|psk|secret|token|api[_-]?key|credential|private_?key))[\w.-]++"
    r"""(?P=quote)[ \t]*+[=:][ \t]*+)(?P<value>"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+'|["']?[^\s,;&"'}\]]+)""",
    re.IGNORECASE,
)
_HEADER = re.compile(
    r"(?P<head>\b(?:authorization|proxy-authorization|cookie|set-cookie|x-token-code|x-api-key|x-auth-token)"
    r"[\"']?[ \t]*:[ \t]*)[^\r\n]+",
    re.IGNORECASE,
)
_URL_LOGIN = re.compile(r"(?P<head>://[^\s/?#@:]*):[^\s@/]*@")
_FLAG = re.compile(r"(?P<head>(?:^|\s)--?(?:pass(?:word|wd)?|token|secret|psk|key)[= ])(?P<value>\S+)", re.IGNORECASE)
_OWN_TOKENS = re.compile(r"\b(?:mk_[0-9a-f]{4,}_[\w-]+|whsec_[\w-]+)")
_JWT = re.compile(r"\beyJ[\w-]{8,4000}+\.[\w-]+\.[\w-]+")
_PRIVATE_KEY = re.compile(r"-----BEGIN ([A-Z ]*PRIVATE KEY)-----.*?(?:-----END \1-----|\Z)", re.DOTALL)
# What is no secret although its name sounds like one.
_HARMLESS = re.compile(r"(?i)^[\"']?(?:|yes|no|true|false|null|none|on|off|\*+|[0-9]{1,3})[\"']?$")


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Replace every value that is named, or looks, like a secret, and every one of `secrets`, by `***`."""
    text = _PRIVATE_KEY.sub(rf"-----BEGIN \1-----{MASK}", text)
    text = _HEADER.sub(rf"\g<head>{MASK}", text)
    text = _URL_LOGIN.sub(rf"\g<head>:{MASK}@", text)
    text = _ASSIGNED.sub(_mask_value, text)
    text = _FLAG.sub(rf"\g<head>{MASK}", text)
    text = _JWT.sub(MASK, _OWN_TOKENS.sub(MASK, text))
    for secret in sorted(secrets, key=len, reverse=True):
        text = re.sub(rf"(?<![\w-]){re.escape(secret)}(?![\w-])", MASK, text)
    return text


def find_secrets(texts: Iterable[str]) -> frozenset[str]:
    """Return the values that configuration files assign to names of secrets, to be looked for elsewhere too."""
    found = set()
    for text in texts:
        for match in _ASSIGNED.finditer(text):
            value = match["value"]
            if value[:1] in {'"', "'"}:
                value = re.sub(r"\\(.)", r"\1", value[1:-1])
            if len(value) >= _SHORTEST_LITERAL and not _HARMLESS.match(value):
                found.add(value)
    return frozenset(found)


def _mask_value(match: re.Match[str]) -> str:
    value = match["value"]
    if _HARMLESS.match(value):
        return match[0]
    quote = value[0] if value[0] in {'"', "'"} else ""
    return f"{match['head']}{quote}{MASK}{quote}"
