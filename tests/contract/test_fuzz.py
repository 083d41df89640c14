"""Anything that a generator makes of the OpenAPI document gets a documented answer in the right shape, never a 5xx."""

from __future__ import annotations

import json
import warnings
from typing import Any

import httpx
import hypothesis
import pytest
import schemathesis
from cases import ENDPOINTS, errors_of
from hypothesis import strategies as st
from planes import CODE, Fleet, MakeFleet

EXAMPLES = 5
KNOWN = {"device_key": "cam-1", "device_type": "rpi", "distribution": "d1", "filename": "a.bin", "id": "1"}
FILE_NAMES = st.sampled_from(
    ["a.bin", "manifest.json", "../a.bin", ".hidden", "", "a\\b", "ä.bin", "x" * 300, "a\x00b"]
)
# Refusals that the contract gives a shape of their own.
OWN_SHAPES = [
    json.loads(text.removeprefix("body ")) for _, _, text in errors_of(tuple(ENDPOINTS)) if text.startswith("body ")
]


def check_answer(answer: httpx.Response, operation: Any, where: str) -> None:
    """Check one answer: its status is documented, its body has the shape of its family."""
    where = f"{where} -> {answer.status_code} {answer.content[:200]!r}"
    assert answer.status_code < 500 or answer.status_code == 503, where
    if answer.status_code < 400:
        assert str(answer.status_code) in operation.definition.raw["responses"], where
        return
    body = answer.json()
    is_unrouted = body.get("message", body.get("error")) in ("Not found", "Method not allowed")
    assert str(answer.status_code) in operation.definition.raw["responses"] or is_unrouted, where
    extra = {"manifest_exists", "archive_exists"} if operation.path.endswith("/updates/verify") else set()
    family = {"ok", "error", "message"} if answer.request.url.path.startswith("/api/admin/") else {"error"}
    assert body.keys() - extra == family or body in OWN_SHAPES, where
    assert isinstance(body.get("error", ""), str), where


@pytest.mark.parametrize("kind", ["admin", "device", "nobody"])
@pytest.mark.timeout(180)
def test_generated_requests(make_fleet: MakeFleet, kind: str) -> None:
    fuzz_all(make_fleet(heartbeat_interval_s=0.001), kind)


@pytest.mark.real
@pytest.mark.timeout(180)
def test_generated_requests_on_postgresql(make_postgres_fleet: MakeFleet) -> None:
    fuzz_all(make_postgres_fleet(heartbeat_interval_s=0.001), "admin")


def fuzz_all(fleet: Fleet, kind: str) -> None:
    """Send what is generated for each operation of the document."""
    headers = {"admin": {"authorization": f"Bearer {fleet.admin}"}, "device": {"x-token-code": CODE}, "nobody": {}}
    place = {"devicetype": "rpi", "distribution": "d1"}
    fleet.call("POST", "/api/flash/create-type", key=fleet.admin, json=place)
    fleet.call("POST", "/api/flash/create-distribution", key=fleet.admin, json=place)
    with warnings.catch_warnings(), fleet.state.metrics.recent.attached():
        warnings.simplefilter("ignore")  # of the generator and the client that it uses, about themselves
        schema = schemathesis.openapi.from_dict(fleet.api.openapi())
        for result in schema.get_all_operations():
            if fleet.call("GET", "/api/devices/cam-1", key=fleet.admin).status_code == 404:
                fleet.device("cam-1", token_count=1000)  # an earlier operation has deleted it
            fuzz_operation(fleet, headers[kind], result.ok())


def fuzz_operation(fleet: Fleet, headers: dict[str, str], operation: Any) -> None:
    @hypothesis.settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(case=operation.as_strategy(), known=st.booleans(), file_name=FILE_NAMES)
    def run(case: Any, known: bool, file_name: str) -> None:
        if known:
            case.path_parameters = {name: KNOWN.get(name, value) for name, value in case.path_parameters.items()}
        answer = send(fleet, case, headers, file_name)
        check_answer(answer, operation, f"{case.method} {case.formatted_path} {case.body!r:.200}")

    run()


def send(fleet: Fleet, case: Any, headers: dict[str, str], file_name: str) -> httpx.Response:
    """Send a case as the generator means it; forms go as real multipart bodies."""
    kwargs = case.as_transport_kwargs(base_url="http://fleet.test")
    given = {
        name: value
        for name, value in (kwargs.get("headers") or {}).items()
        if name.lower() not in ("authorization", "x-token-code")
    }
    sent = {name: kwargs[name] for name in ("params", "json") if name in kwargs}
    if case.media_type == "multipart/form-data":
        given = {name: value for name, value in given.items() if name.lower() != "content-type"}
        sent |= form_of(case, file_name)
    elif (data := kwargs.get("data")) is not None:
        sent["content"] = data if isinstance(data, bytes | str) else repr(data)
    return fleet.call(kwargs["method"], kwargs["url"], headers=given | headers, **sent)


def form_of(case: Any, file_name: str) -> dict[str, Any]:
    """Return a multipart body: fields as they were generated, files under a name that a stranger might choose."""
    schema = case.operation.definition.raw["requestBody"]["content"]["multipart/form-data"]["schema"]
    kinds = {name: about.get("format") for name, about in schema.get("properties", {}).items()}
    parts: list[tuple[str, Any]] = []
    for name, value in case.body.items() if isinstance(case.body, dict) else ():
        raw = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
        parts.append((str(name), (file_name, raw) if kinds.get(name) == "binary" else (None, raw)))
    return {"files": parts or {"nothing": (None, b"")}}
