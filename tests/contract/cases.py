"""The contract as the slices' tests read it: endpoints, the keys of replies, the documented errors.

Each `test_<slice>_api.py` holds one `Slice`, a table of good calls and a table of provocations. `test_whole.py` fails
when an endpoint of `meeting.yaml` is in no slice, and when a documented error is neither provoked nor shown elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

CONTRACT: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("meeting.yaml").read_text())
ENDPOINTS: dict[str, dict[str, Any]] = {entry["id"]: entry for entry in CONTRACT["endpoints"]}


@dataclass(frozen=True)
class Slice:
    """The endpoints of one slice.

    `elsewhere` names the test that provokes an error which the slice's table cannot: text of the error (or endpoint and
    text) -> `tests/file.py::test_name`.
    """

    endpoints: tuple[str, ...]
    elsewhere: Mapping[str | tuple[str, str], str] = field(default_factory=dict)

    def errors(self) -> list[tuple[str, int, str]]:
        """Return each documented error that the slice itself must provoke: endpoint, status, text or code."""
        return [case for case in errors_of(self.endpoints) if self.shown_by(*case[::2]) is None]

    def shown_by(self, endpoint: str, text: str) -> str | None:
        """Return the test elsewhere that provokes an error."""
        return self.elsewhere.get((endpoint, text)) or self.elsewhere.get(text)


def matching(pattern: str) -> tuple[str, ...]:
    """Return the endpoints whose id matches a regular expression somewhere."""
    return tuple(entry for entry in ENDPOINTS if re.search(pattern, entry))


def errors_of(endpoints: tuple[str, ...]) -> Iterator[tuple[str, int, str]]:
    """Give endpoint, status and text of each documented error."""
    for endpoint in endpoints:
        for error in ENDPOINTS[endpoint]["errors"]:
            yield endpoint, error["status"], error["error"]


def check_reply(
    endpoint: str,
    answer: httpx.Response,
    *,
    added: frozenset[str] = frozenset(),
    optional: frozenset[str] = frozenset(),
) -> None:
    """Compare status, content type and every key of a good answer with the contract, also those of inner objects.

    `added` are keys of ours beyond the contract's, `optional` are keys of the contract that may be absent.
    """
    assert answer.status_code == 200, answer.text
    wanted = ENDPOINTS[endpoint]["success"]
    kinds = re.findall(r"[\w.-]+/[\w.+-]+", wanted["content_type"])
    kind = answer.headers["content-type"].partition(";")[0]
    assert not kinds or kind in kinds, f"{kind} is not {wanted['content_type']}"
    body = wanted["body"]
    if isinstance(body, dict):
        given = answer.json()
        names = {part for name in body for part in name.split("/")}
        assert given.keys() - added - optional == names - optional
        assert given.keys() <= names | added
        for name in names & given.keys() & body.keys():
            check_inner(str(body[name]), given[name])
    elif kind == "application/json":
        check_inner(body, answer.json())
    else:
        assert answer.content


def check_inner(text: str, value: Any) -> None:
    """Compare the keys of an object, or of the objects of a list, with those that the contract names."""
    keys = keys_in(text)
    for item in value if isinstance(value, list) else [value]:
        if keys and isinstance(item, dict):
            assert item.keys() == keys, text


def keys_in(text: str) -> set[str]:
    """Return the keys that a description names, in braces or after `object:`; none where it only describes.

    `name -> {...}` describes the values of a map, and what follows a semicolon is a remark.
    """
    if "->" in text:
        return set()
    found = re.search(r"\{(.*)\}", text) or re.match(r"object: (\w+(?:, \w+)+)$", text)
    if found is None:
        return set()
    return {re.split(r"[ |(]", part.strip())[0] for part in found[1].split(",")}


def check_documented(document: Mapping[str, Any], endpoint: str) -> None:
    """Check that the OpenAPI document has the route with its errors."""
    method, path = endpoint.partition("?")[0].split(" ", 1)
    found = next((real for real in document["paths"] if _without_names(real) == _without_names(path)), None)
    assert found, f"{endpoint}: no route"
    responses = document["paths"][found][method.lower()]["responses"]
    wanted = {str(status) for _, status, _ in errors_of((endpoint,))} - {"500"}
    assert wanted <= responses.keys(), endpoint


def _without_names(path: str) -> str:
    return re.sub(r"\{\w+\}", "{}", path)
