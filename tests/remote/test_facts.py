"""What a device answers, read: recorded outputs, and one real machine."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meetingctl.cli.remote_facts import flatten
from meetingctl.core.errors import UsageError
from meetingctl.remote import parsers
from meetingctl.remote.facts import _COMMANDS, GROUPS, choose_groups, parse_facts
from meetingctl.remote.sections import sections_line, split_sections

from .machine import reports_of

DF = """Filesystem     1024-blocks    Used Available Capacity Mounted on
/dev/mmcblk0p2    30358640 5173488  23861980      18% /
/dev/sda 1        10 5 5 50% /media/odd
nonsense 1 2 /x
tmpfs                 1000       0      1000       0% /media/my disk
/dev/mmcblk0p2    30358640 5173488  23861980      18% /
"""
V4L2 = """bcm2835-codec-decode (platform:bcm2835-codec):
\t/dev/video10
\t/dev/video11
HD Pro Webcam C920 (usb-0000:01:00.0-1.2):
\t/dev/video0
\t/dev/video1
\t/dev/media3

nothing here:
"""
CSI = """Available cameras
-----------------
0 : ov5647 [2592x1944 10-bit GBRG] (/base/soc/i2c0mux/i2c@1/ov5647@36)
    Modes: 'SGBRG10_CSI2P' : 640x480 [58.92 fps - (16, 0)/2560x1920 crop]
1 : imx708_wide [4608x2592] (/base/soc/i2c@1a)
"""
ARECORD = """**** List of CAPTURE Hardware Devices ****
card 1: C920 [HD Pro Webcam C920], device 0: USB Audio [USB Audio]
  Subdevices: 1/1
"""
IP_ADDR = json.dumps(
    [
        {"ifname": "lo", "flags": ["LOOPBACK", "UP"], "addr_info": [{"local": "127.0.0.1", "prefixlen": 8}]},
        {
            "ifname": "eth0",
            "flags": ["BROADCAST", "UP"],
            "operstate": "UP",
            "address": "b8:27:eb:00:00:01",
            "addr_info": [{"local": "192.168.1.202", "prefixlen": 24}, {"local": "fe80::1", "prefixlen": 64}, {}],
        },
        {"ifname": "wlan0", "flags": [], "operstate": "DOWN", "address": None},
    ]
)
NMCLI = "Wired connection 1:802-3-ethernet:eth0:activated\nCaf\\: guest:802-11-wireless:wlan0:activated\nshort\n"
SS = """LISTEN 0      128          0.0.0.0:22        0.0.0.0:*
LISTEN 0      5               [::]:8554         [::]:*
LISTEN 0      5          *:8554         *:*
nonsense
"""
UNITS = """Id=rtsp-recorder.service
ActiveState=inactive
Environment=A=b

Id=rpi-cam-onvif.service
ActiveState=active
"""

TABLE: list[tuple[Any, str, Any]] = [
    (
        parsers.parse_df,
        DF,
        [
            {"mount": "/", "size_bytes": 31087247360, "used_bytes": 5297651712, "free_bytes": 24434667520},
            {"mount": "/media/odd", "size_bytes": 10240, "used_bytes": 5120, "free_bytes": 5120},
            {"mount": "/media/my disk", "size_bytes": 1024000, "used_bytes": 0, "free_bytes": 1024000},
        ],
    ),
    (
        parsers.parse_v4l2_devices,
        V4L2,
        [
            {"name": "bcm2835-codec-decode (platform:bcm2835-codec)", "nodes": ["/dev/video10", "/dev/video11"]},
            {
                "name": "HD Pro Webcam C920 (usb-0000:01:00.0-1.2)",
                "nodes": ["/dev/video0", "/dev/video1", "/dev/media3"],
            },
        ],
    ),
    (
        parsers.parse_csi_cameras,
        CSI,
        [
            {"index": 0, "sensor": "ov5647", "size": "2592x1944"},
            {"index": 1, "sensor": "imx708_wide", "size": "4608x2592"},
        ],
    ),
    (parsers.parse_csi_cameras, "No cameras available!\n", []),
    (
        parsers.parse_sound_cards,
        ARECORD,
        [{"device": "hw:1,0", "card": "HD Pro Webcam C920", "name": "USB Audio"}],
    ),
    (
        parsers.parse_interfaces,
        IP_ADDR,
        [
            {
                "interface": "eth0",
                "state": "up",
                "mac": "b8:27:eb:00:00:01",
                "addresses": ["192.168.1.202/24", "fe80::1/64"],
            },
            {"interface": "wlan0", "state": "down", "mac": None, "addresses": []},
        ],
    ),
    (parsers.parse_interfaces, 'Object "addr" is unknown', []),
    (
        parsers.parse_default_routes,
        '[{"dst":"default","gateway":"192.168.1.1","dev":"eth0","metric":100}, 7]',
        [{"gateway": "192.168.1.1", "interface": "eth0", "metric": 100}],
    ),
    (
        parsers.parse_connections,
        NMCLI,
        [
            {"name": "Wired connection 1", "type": "802-3-ethernet", "interface": "eth0", "state": "activated"},
            {"name": "Caf: guest", "type": "802-11-wireless", "interface": "wlan0", "state": "activated"},
        ],
    ),
    (parsers.parse_name_servers, "# made\nnameserver 1.1.1.1\nsearch lan\nnameserver\n", ["1.1.1.1"]),
    (parsers.parse_listeners, SS, [22, 8554]),
    (
        parsers.parse_units,
        UNITS,
        {
            "rtsp-recorder": {"ActiveState": "inactive", "Environment": "A=b"},
            "rpi-cam-onvif": {"ActiveState": "active"},
        },
    ),
    (
        parsers.parse_throttled,
        "throttled=0x50005",
        ["under-voltage", "throttled", "under-voltage has occurred", "throttling has occurred"],
    ),
    (parsers.parse_throttled, "throttled=0x0", []),
    (parsers.parse_throttled, "", None),
    (
        parsers.parse_os_release,
        'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nVERSION_CODENAME=bookworm\nBAD="x\n',
        {"PRETTY_NAME": "Debian GNU/Linux 12 (bookworm)", "VERSION_CODENAME": "bookworm", "BAD": '"x'},
    ),
    (
        parsers.parse_meminfo,
        "MemTotal:         929268 kB\nHugePages:\nMemAvailable:     512000 kB\n",
        {"MemTotal": 929268, "MemAvailable": 512000},
    ),
]


@pytest.mark.parametrize(("parse", "text", "expected"), TABLE)
def test_recorded_output_is_read(parse: Any, text: str, expected: Any) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize("text", ["", "\n", "garbage", "{", "[]", "a b c d e f", "\x00\xff:\n\t", "[{}]", "=:\n::::"])
def test_nonsense_is_no_error(text: str) -> None:
    for parse, _, _ in TABLE:
        parse(text)


def test_sections_are_told_apart_from_what_looks_like_them() -> None:
    mark = "@@0123"
    text = "motd\n\n@@0123 a\none\n@@9999 b\n\n@@0123 b\n\n@@0123 end\n"
    assert split_sections(text, mark) == {"a": "one\n@@9999 b\n", "b": ""}
    assert split_sections("nothing", mark) == {}


def test_the_line_names_each_command() -> None:
    line = sections_line({"it's": "echo 'x y'"}, "@@1")
    assert "@@1" in line
    assert "export LC_ALL=C" in line


def test_groups_are_chosen_in_their_order() -> None:
    assert choose_groups("") == GROUPS
    assert choose_groups("network, camera") == ("camera", "network")
    with pytest.raises(UsageError, match="no facts 'cam'"):
        choose_groups("cam")


def test_facts_of_a_device_without_any_program() -> None:
    facts = parse_facts(GROUPS, {})
    assert facts["system"]["hostname"] is None
    assert facts["camera"] == {"video_nodes": [], "v4l2": [], "csi": []}
    assert facts["kernel"] == {"messages": []}


@given(st.data())
def test_no_output_of_a_device_breaks_its_facts(data: st.DataObject) -> None:
    """A device may be broken or hostile: what it prints is recorded output with pieces of anything in it."""
    recorded = [text for _, text, _ in TABLE]
    piece = st.one_of(st.sampled_from(recorded), st.text(max_size=60), st.sampled_from(["9" * 5000, "²", "[" * 5000]))
    pieces = st.builds(lambda parts: "".join(parts), st.lists(piece, max_size=3))
    names = [f"{group}.{name}" for group in GROUPS for name in _COMMANDS[group]]
    facts = parse_facts(GROUPS, {name: data.draw(pieces) for name in names})
    json.dumps(facts)


@pytest.mark.parametrize(
    "text",
    [
        '[{"flags": 5, "addr_info": 7}]',
        '[{"addr_info": [5, {"local": {}}], "operstate": []}]',
        "[" * 100_000,
        '{"a": 1}',
        "null",
    ],
)
def test_json_of_another_shape_is_no_error(text: str) -> None:
    json.dumps([parsers.parse_interfaces(text), parsers.parse_default_routes(text)])


def test_nested_facts_become_lines() -> None:
    assert flatten({"a": {"": [1, 2]}, "c": [{"d": None}]}) == [("a.", [1, 2]), ("c.0.d", None)]


def test_a_real_machine_tells_its_facts(here, camera, second_camera, machine):
    machine.unit("rpi-av-rtsp-recorder")
    targets = [camera.target, second_camera.target]
    done = here("remote", "facts", *targets, "-i", str(camera.identity), "--only", "system,rtsp", "--json")
    assert done.code == 0, done.err
    first, second = reports_of(done.out)
    assert [first["target"], second["target"]] == targets
    assert first["ok"] is True
    assert first["route"]["way"] == "address"
    assert set(first["facts"]) == {"system", "rtsp"}
    system = first["facts"]["system"]
    assert system["boot_id"] == "boot-1"
    assert system["memory_bytes"] > system["memory_free_bytes"] > 0
    assert "/" in [disk["mount"] for disk in system["disks"]]
    assert first["facts"]["rtsp"]["units"] == {"rpi-av-rtsp-recorder": "active", "rtsp-recorder": "inactive"}


def test_facts_for_people_are_lines(here, camera):
    done = here("remote", "facts", camera.target, "-i", str(camera.identity), "--only", "system", "-o", "plain")
    assert f"{camera.target}\tsystem.boot_id\tboot-1\n" in done.out


def test_facts_of_a_closed_port_say_so_once(here):
    done = here("remote", "facts", "pi@127.0.0.1:1", "--retries", "0")
    assert (done.code, done.out) == (69, "")
    assert done.err.count("127.0.0.1:1") == 2
    as_json = here("remote", "facts", "pi@127.0.0.1:1", "--retries", "0", "--json")
    assert as_json.code == 69
    (report,) = reports_of(as_json.out)
    assert (report["result"], report["error"]["code"]) == ("unreachable", "unreachable")


def test_addresses_are_probed(here, camera):
    done = here("remote", "ip", camera.target, "--probe", "--json")
    (report,) = reports_of(done.out)
    (address,) = report["addresses"]
    assert done.code == 0
    assert (address["port"], address["answers"], address["source"]) == (camera.port, True, "command line")
    closed = here("remote", "ip", "pi@127.0.0.1:1", "--probe")
    assert closed.code == 69
    assert "127.0.0.1\t1\tcommand line\tno\t" in closed.out
    unprobed = here("remote", "ip", "pi@127.0.0.1:1")
    assert (unprobed.code, unprobed.out) == (0, "pi@127.0.0.1:1\t127.0.0.1\t1\tcommand line\n")


def test_a_device_that_never_stops_writing_is_given_up(here, camera, machine):
    machine.program("uname", "exec yes")
    machine.program("timeout", "exec yes")
    began_s = time.monotonic()
    done = here("remote", "facts", camera.target, "-i", str(camera.identity))
    assert done.code == 1
    assert "bytes as an answer" in done.err
    assert done.out == ""
    assert time.monotonic() - began_s < 60
