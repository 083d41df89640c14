"""Anything that a generator makes of the OpenAPI document gets a documented answer in the right shape, never a 5xx."""

from __future__ import annotations

import warnings
from typing import Any

import hypothesis
import pytest
import schemathesis
from planes import CODE, Fleet, MakeFleet
from schemathesis.core.transport import Response

DEVICE_KEY = "cam-1"
EXAMPLES = 10


def accepted(kind: str, response: Response, case: Any) -> None:
    """Check one answer."""
    where = f"{kind}: {case.method} {case.formatted_path} -> {response.status_code} {response.content[:200]!r}"
    assert response.status_code < 500 or response.status_code == 503, where
    documented = case.operation.definition.raw["responses"]
    assert str(response.status_code) in documented or response.status_code in (404, 405), where
    if response.status_code >= 400:
        body = response.json()
        is_admin = case.formatted_path.startswith("/api/admin/")
        extra = {"manifest_exists", "archive_exists"} if case.formatted_path.endswith("/updates/verify") else set()
        assert body.keys() - extra == ({"ok", "error", "message"} if is_admin else {"error"}), where
        assert isinstance(body["error"], str), where


@pytest.mark.parametrize("kind", ["admin", "device", "nobody"])
@pytest.mark.timeout(180)
def test_generated_requests(make_fleet: MakeFleet, kind: str) -> None:
    fleet = make_fleet(heartbeat_interval_s=0.001)
    fleet.device(DEVICE_KEY, token_count=1000)
    headers = {
        "admin": {"authorization": f"Bearer {fleet.admin}"},
        "device": {"x-token-code": CODE},
        "nobody": {},
    }[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the generator and the client that it uses, about themselves
        schema = schemathesis.openapi.from_dict(fleet.api.openapi())
        for result in schema.get_all_operations():
            _fuzz(fleet, kind, headers, result.ok())


def _fuzz(fleet: Fleet, kind: str, headers: dict[str, str], operation: Any) -> None:
    @hypothesis.settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(case=operation.as_strategy(), known=hypothesis.strategies.booleans())
    def run(case: Any, known: bool) -> None:
        if known and "device_key" in (case.path_parameters or {}):
            case.path_parameters["device_key"] = DEVICE_KEY
        kwargs = case.as_transport_kwargs(base_url="http://fleet.test")
        accepted(kind, _send(fleet, kwargs, headers), case)

    run()


def _send(fleet: Fleet, kwargs: dict[str, Any], headers: dict[str, str]) -> Any:
    kwargs.pop("cookies", None)
    kwargs.pop("verify", None)
    given = {
        name: value
        for name, value in (kwargs.pop("headers", None) or {}).items()
        if name.lower() not in ("authorization", "x-token-code")
    }
    data = kwargs.pop("data", None)
    if data is not None:
        kwargs["content"] = data if isinstance(data, bytes | str) else repr(data)
    allowed = {name: value for name, value in kwargs.items() if name in ("params", "json", "content")}
    return fleet.call(kwargs["method"], kwargs["url"], headers=given | headers, **allowed)
