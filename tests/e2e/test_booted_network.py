"""Wrong network profiles on a booted device: real NetworkManager, timers of systemd, and a restart."""

import json

import pytest

from e2e.booted import booted_site, require_booted_device
from e2e.world import User, wait_until
from meetingctl.remote.network import FOLDER

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

LAN = ("type", "ethernet", "con-name", "lan", "ifname", "eth0", "ipv4.method", "manual", "ipv4.dns", "8.8.8.8 1.1.1.1")
RISK = ("--accept-risk", "lose-ssh")


@pytest.fixture(scope="module")
def booted(require_program, tmp_path_factory):
    require_booted_device(require_program)
    with booted_site(tmp_path_factory.mktemp("site"), 1) as site:
        yield site


@pytest.fixture
def site(booted):
    """The device with both profiles as every test finds them, wherever the test before stopped."""
    device = booted.devices[0]
    device.bring_up(prepare=use_own_address)
    device.ask("nmcli", "connection", "delete", "lan")
    device.do("nmcli", "connection", "add", *LAN, "ipv4.addresses", "192.168.1.202/24")
    return booted


def use_own_address(device):
    """End what is still to come of a change, and give the profile that leads to the device its address again."""
    device.ask("systemctl", "stop", "meetingctl-network-*.timer", "meetingctl-network-*.service")
    device.do("rm", "-rf", FOLDER)
    if device.ask("nmcli", "-g", "ipv4.method", "connection", "show", "host0").stdout != b"manual\n":
        words = ("host0", "ipv4.method", "manual", "ipv4.addresses", f"{device.address}/24")
        device.do("nmcli", "connection", "modify", *words)
        device.do("nmcli", "connection", "up", "host0")


@pytest.fixture
def network(site, tmp_path):
    """Run `remote network` for the device and return its JSON."""
    operator = User(tmp_path / "home")

    def run(verb, *args, code=0):
        target, options = site.devices[0].target, site.access.options
        done = operator.run("remote", "network", verb, *options, "--json", target, *args)
        assert done.returncode == code, done.stdout + done.stderr
        return json.loads(done.stdout)

    return run


def methods(network):
    return {profile["name"]: profile["method"] for profile in network("show")[0]["profiles"]}


def test_a_wrong_profile_gets_its_address_by_dhcp_for_good(site, network):
    assert methods(network) == {"host0": "manual", "lan": "manual"}
    done = network("recover", "--only", "eth0", *RISK)
    assert (done["changed"], [step["on"] for step in done["steps"]]) == (True, ["lan"])
    assert methods(network) == {"host0": "manual", "lan": "auto"}
    assert b"method=auto" in site.devices[0].do("cat", "/etc/NetworkManager/system-connections/lan.nmconnection")
    assert network("recover", "--only", "eth0", *RISK)["steps"] == []


def test_a_profile_without_which_the_device_is_lost_comes_back(site, network):
    refused = network("recover", "--only", "host0", "--revert-after", "10s", *RISK, code=1)
    assert "the former ones are back" in refused["error"]["message"]
    assert methods(network)["host0"] == "manual"
    # Nothing is left that could act later.
    assert b"meetingctl-network" not in site.devices[0].do("systemctl", "list-timers", "--all")


def test_a_restart_takes_back_what_nobody_confirmed(site, network):
    device = site.devices[0]
    device.do("nmcli", "connection", "modify", "--temporary", "host0", "ipv4.method", "auto", "ipv4.addresses", "")
    device.cut_power()
    device.boot()
    wait_until(lambda: methods(network)["host0"] == "manual", "the saved profile")
