"""The registry over HTTP: what goes over the wire and what comes back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from meetingctl.client import FleetClient
from meetingctl.core.errors import MeetingctlError, Unreachable
from meetingctl.core.secret import Secret
from meetingctl.tunnel.api_directory import ApiDirectory, parse_admission, parse_desired
from meetingctl.tunnel.directory import Admission, AgentLink, Desired, Event, Refused, Report, Tunnel, Visit

from .test_agent import Api

TUNNEL = {
    "port": 9050,
    "device_key": "K",
    "service": "ssh",
    "local_port": 22,
    "expires_at_ms": 5,
    "allow_from": ["10.0.0.0/8"],
}


def ask(answers: dict[str, tuple[int, Any]], call: Any) -> tuple[Any, Api]:
    with Api(answers) as api, FleetClient(api.url, api_key=Secret("mk_1_x")) as client:
        return asyncio.run(call(ApiDirectory(client))), api


def test_an_admission_goes_out_and_comes_back() -> None:
    answers = {"/api/proxy/admit": (200, {"admitted": True, "device_key": "K", "generation": 7})}
    admission, api = ask(answers, lambda directory: directory.admit("K", "3FA9C1", "10.0.0.7"))
    assert admission == Admission("K", 7)
    path, headers, body = api.requests[0]
    assert (path, body) == ("/api/proxy/admit", {"device_key": "K", "token": "3FA9C1", "peer": "10.0.0.7"})
    assert headers["Authorization"] == "Bearer mk_1_x"


def test_a_refusal_carries_the_reason() -> None:
    answers = {"/api/proxy/admit": (200, {"admitted": False, "reason": "unknown device or wrong token"})}
    with pytest.raises(Refused) as caught:
        ask(answers, lambda directory: directory.admit("K", "x", "10.0.0.7"))
    assert caught.value.reason == "unknown device or wrong token"


@pytest.mark.parametrize("status", [401, 403, 500])
def test_a_proxy_with_a_wrong_key_is_no_refusal_of_the_device(status: int) -> None:
    with pytest.raises(MeetingctlError) as caught:
        ask({"/api/proxy/admit": (status, {"error": "No"})}, lambda directory: directory.admit("K", "x", "p"))
    assert not isinstance(caught.value, Refused)


@pytest.mark.parametrize("answer", [None, [], {}, {"admitted": True}, {"admitted": True, "device_key": "K"}])
def test_an_admission_of_another_shape_is_a_clear_error(answer: Any) -> None:
    with pytest.raises(MeetingctlError, match="something else"):
        parse_admission(answer)


def test_a_report_goes_out_whole_and_the_wanted_state_comes_back() -> None:
    report = Report(
        "proxy-1",
        (AgentLink("K", 7, "10.0.0.7", "new", 1, 2, 3, 4),),
        (Visit("K", 9050, "ssh", 22, "10.0.0.9", 1, 2, 3, 4, "ok", ""),),
        (Event(1, "K", "agent up", "new agent"),),
    )
    answers = {"/api/proxy/sync": (200, {"tunnels": [TUNNEL], "drop": [["K2", "device deleted"]]})}
    desired, api = ask(answers, lambda directory: directory.sync(report))
    assert desired == Desired((Tunnel(9050, "K", "ssh", 22, 5, ("10.0.0.0/8",)),), (("K2", "device deleted"),))
    body = api.requests[0][2]
    assert body["proxy"] == "proxy-1"
    assert body["agents"][0] == {
        "device_key": "K",
        "generation": 7,
        "peer": "10.0.0.7",
        "kind": "new",
        "connected_at_ms": 1,
        "streams": 2,
        "bytes_in": 3,
        "bytes_out": 4,
    }
    assert body["visits"][0]["outcome"] == "ok"
    assert body["events"][0]["kind"] == "agent up"


@pytest.mark.parametrize(
    "answer", [None, [], {}, {"tunnels": 5, "drop": []}, {"tunnels": [{}], "drop": []}, {"tunnels": [], "drop": ["x"]}]
)
def test_an_answer_of_another_shape_is_a_clear_error(answer: Any) -> None:
    with pytest.raises(MeetingctlError, match="something else"):
        parse_desired(answer)


def test_an_absent_api_is_unreachable() -> None:
    with FleetClient("http://127.0.0.1:9", timeout_s=1) as client, pytest.raises(Unreachable):
        asyncio.run(ApiDirectory(client).sync(Report("p")))


def test_a_change_is_looked_for_once_per_poll() -> None:
    with FleetClient("http://127.0.0.1:9") as client:
        asyncio.run(asyncio.wait_for(ApiDirectory(client).wait_change(0.01), 1))
