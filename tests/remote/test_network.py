"""Network profiles: reading and choosing them as tables, and the change with its timer against a real SSH server."""

from __future__ import annotations

from pathlib import Path

import pytest

from meetingctl.remote import network
from meetingctl.remote.network import Profile, parse_profiles, plan_recover

from .conftest import Device
from .machine import Machine, reports_of

# Recorded with NetworkManager 1.52 on Debian 13.
SHOWN = r"""connection.id:host0
connection.uuid:4e26594a-8633-3fc2-b1bd-d8f883a2c5ee
connection.type:802-3-ethernet
connection.interface-name:host0
connection.autoconnect:yes
ipv4.method:auto
ipv4.addresses:
ipv4.gateway:
ipv4.dns:
GENERAL.DEVICES:host0

connection.id:lan \: first floor
connection.uuid:b68cef6e-9a3f-493e-bb72-c7f4c0845de3
connection.type:802-3-ethernet
connection.interface-name:eth0
connection.autoconnect:yes
ipv4.method:manual
ipv4.addresses:192.168.1.202/24
ipv4.gateway:192.168.1.1
ipv4.dns:8.8.8.8,1.1.1.1

connection.id:lo
connection.uuid:6ba6d078-31ee-4f72-8fe5-6ba6cf385bb3
connection.type:loopback
connection.interface-name:lo
ipv4.method:manual
ipv4.addresses:127.0.0.1/8
"""
LAN = "b68cef6e-9a3f-493e-bb72-c7f4c0845de3"


def test_what_nmcli_shows_is_read() -> None:
    host, lan = parse_profiles(SHOWN)
    assert (host.name, host.device, host.is_static) == ("host0", "host0", False)
    assert (lan.name, lan.place, lan.is_static) == ("lan : first floor", "eth0", True)
    assert lan.as_json()["dns"] == ["8.8.8.8", "1.1.1.1"]
    assert parse_profiles("") == parse_profiles("connection.uuid:; rm -rf /\nconnection.type:802-3-ethernet\n") == []


@pytest.mark.parametrize(
    ("profile", "options", "is_chosen"),
    [
        ({"method": "manual", "device": "eth0"}, {}, True),
        ({"method": "auto"}, {}, False),
        ({"method": "auto", "gateway": "10.0.0.1"}, {}, True),
        ({"method": "shared", "addresses": "10.42.0.1/24"}, {}, False),
        ({"method": "disabled"}, {}, False),
        ({"method": "manual", "type": "wifi", "device": "wlan0"}, {"keep_wifi": True}, False),
        ({"method": "manual", "interface": "eth0"}, {"only": ["eth0"]}, True),
        ({"method": "manual", "interface": "eth0"}, {"only": ["wlan0"]}, False),
        ({"method": "manual"}, {"only": ["eth0"]}, False),
    ],
)
def test_which_profiles_are_set_back(profile, options, is_chosen) -> None:
    steps = plan_recover(
        [Profile(**{"name": "x", "uuid": LAN, "type": "ethernet", **profile})],
        **{"only": (), "keep_wifi": False, **options},
    )
    assert [step.do for step in steps] == (["use-dhcp"] if is_chosen else [])


@pytest.fixture
def calls(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let nmcli and systemd-run be stand-ins, and return where nmcli notes what it was called for."""
    monkeypatch.setattr(network, "FOLDER", str(tmp_path / "network"))
    state = machine.state
    machine.program(
        "nmcli",
        f"""
case "$*" in *UUID*) ;; *show*) cat {state}/profiles ;; *) echo "$*" >>{state}/nmcli ;; esac""",
    )
    machine.program(
        "systemd-run",
        f"""
for script; do :; done
case "$*" in *--on-active*) [ -e {state}/is_late ] || exit 0 ;; esac
setsid sh "$script" </dev/null >/dev/null 2>&1 &""",
    )
    # No timer runs: the stand-in of systemctl ends with 0 for everything.
    machine.program("systemctl", f"""[ "$1" != is-active ] || [ -e {state}/is_busy ]""")
    (state / "profiles").write_text(SHOWN)
    return state / "nmcli"


def test_a_change_that_is_confirmed_stays(here, camera: Device, calls: Path, tmp_path: Path) -> None:
    common = ("-i", str(camera.identity), "--json")
    (shown,) = reports_of(here("remote", "network", "show", camera.target, *common).out)
    assert [profile["method"] for profile in shown["profiles"]] == ["auto", "manual"]
    planned = here("remote", "network", "recover", camera.target, *common, "--dry-run").json
    assert (planned["changed"], [step["on"] for step in planned["steps"]]) == (False, ["lan : first floor"])
    refused = here("remote", "network", "recover", camera.target, *common, "--yes")
    assert (refused.code, "--accept-risk lose-ssh" in refused.out) == (2, True)
    assert not calls.exists()

    done = here("remote", "network", "recover", camera.target, *common, "--accept-risk", "lose-ssh")
    assert (done.code, done.json["changed"]) == (0, True), done
    automatic = f"uuid {LAN} ipv4.method auto ipv4.addresses  ipv4.gateway  ipv4.dns "
    assert calls.read_text().splitlines() == [
        f"connection modify --temporary {automatic}",
        f"connection modify {automatic}",
    ]
    assert not (tmp_path / "network").exists()


def test_a_change_that_is_not_confirmed_in_time_is_taken_back(
    here, camera: Device, calls: Path, machine: Machine, tmp_path: Path
) -> None:
    machine.note("is_late")  # the timer fires before anybody got in
    done = here("remote", "network", "recover", camera.target, "-i", str(camera.identity), "--accept-risk", "lose-ssh")
    assert (done.code, "the former ones are back" in done.err) == (1, True), done
    old = "ipv4.method manual ipv4.addresses 192.168.1.202/24 ipv4.gateway 192.168.1.1 ipv4.dns 8.8.8.8,1.1.1.1"
    assert f"connection modify uuid {LAN} {old}" in calls.read_text().splitlines()


def test_one_change_at_a_time(here, camera: Device, calls: Path, machine: Machine) -> None:
    machine.note("is_busy")
    done = here("remote", "network", "recover", camera.target, "-i", str(camera.identity), "--accept-risk", "lose-ssh")
    assert (done.code, "another change waits" in done.err) == (75, True)
    assert not calls.exists()
