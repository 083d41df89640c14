"""`meetingctl remote` as a user runs it, against a real SSH server."""

import hashlib
import json
import os
import shlex
import signal
import subprocess
import time

import pytest

from meetingctl.remote.hosts import HostKeys


def test_run_passes_output_and_exit_code_on(meetingctl, device):
    done = meetingctl(
        "remote", "run", device.target, "-i", str(device.identity), "--", "echo out; echo err >&2; exit 7"
    )
    assert (done.returncode, done.stdout) == (7, b"out\n")
    assert done.stderr.endswith(b"err\n")
    assert b"first contact" in done.stderr
    assert HostKeys(meetingctl.known_hosts).pinned(f"[127.0.0.1]:{device.port}") == (device.offered,)


def test_run_in_json_holds_everything(meetingctl, device):
    done = meetingctl("remote", "run", "--json", device.target, "-i", str(device.identity), "--", "echo out; exit 7")
    result = json.loads(done.stdout)
    assert done.returncode == 7
    assert result.pop("duration_s") >= 0
    assert result == {
        "ok": False,
        "target": device.target,
        "route": {"way": "address", "host": "127.0.0.1", "port": device.port},
        "exit_code": 7,
        "stdout": "out\n",
        "stderr": "",
        "stdout_is_cut": False,
        "stderr_is_cut": False,
    }


def test_run_carries_binary_output(meetingctl, device, tmp_path):
    content = tmp_path / "content"
    content.write_bytes(hashlib.shake_256(b"content").digest(3_000_000))
    done = meetingctl("remote", "run", device.target, "-i", str(device.identity), "--", "cat", str(content))
    assert done.stdout == content.read_bytes()


@pytest.mark.parametrize(("size_mib", "style"), [(100, []), (40, ["--json"])])
def test_a_hundred_mib_of_binary_output_need_little_memory(meetingctl, device, size_mib, style):
    """They are passed on byte for byte; in JSON the first MiB is kept, as text."""
    size_bytes = size_mib * 1024 * 1024
    line = f"head -c {size_bytes} /dev/zero | openssl enc -aes-128-ctr -K 00 -iv 00 2>/dev/null"
    command = ("remote", "run", *style, device.target, "-i", str(device.identity), "--")
    taken, peak_kib = {}, {}
    for name, words in {"little": "echo", "much": line}.items():
        digest, taken[name] = hashlib.sha256(), 0
        with meetingctl.start(*command, words, stderr=subprocess.DEVNULL) as process:
            while chunk := process.stdout.read(65536):
                digest.update(chunk)
                taken[name] += len(chunk)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        peak_kib[name] = usage.ru_maxrss
    assert peak_kib["much"] - peak_kib["little"] < 32 * 1024, peak_kib
    if style:
        assert 1024 * 1024 < taken["much"] < 8 * 1024 * 1024
    else:
        assert taken["much"] == size_bytes
        there = subprocess.run(["sh", "-c", line], stdout=subprocess.PIPE, check=True).stdout
        assert digest.hexdigest() == hashlib.sha256(there).hexdigest()


def test_a_changed_host_key_is_refused_until_it_is_trusted(meetingctl, device):
    name = f"[127.0.0.1]:{device.port}"
    pins = HostKeys(meetingctl.known_hosts)
    other = type(device.offered)(b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + bytes(32))
    pins.pin(name, other)
    run = ("remote", "run", device.target, "-i", str(device.identity), "--", "true")
    refused = meetingctl(*run)
    assert refused.returncode == 4
    assert other.fingerprint.encode() in refused.stderr
    assert device.offered.fingerprint.encode() in refused.stderr
    hint = next(line for line in refused.stderr.decode().splitlines() if line.startswith("hint: "))
    trust = shlex.split(hint.removeprefix("hint: "))
    assert meetingctl(*trust[1:]).returncode == 0
    assert pins.pinned(name) == (device.offered,)
    assert meetingctl(*run).returncode == 0


def test_ssh_refuses_a_changed_host_key_in_the_same_words(meetingctl, device):
    pins = HostKeys(meetingctl.known_hosts)
    pins.pin(f"[127.0.0.1]:{device.port}", type(device.offered)(b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + bytes(32)))
    refused = meetingctl("remote", "ssh", device.target, "--print")
    assert refused.returncode == 4
    assert b"meetingctl remote trust" in refused.stderr


def test_trust_asks_and_takes_no_other_fingerprint(meetingctl, device):
    unasked = meetingctl("remote", "trust", device.target)
    assert unasked.returncode == 2
    assert b"--yes" in unasked.stderr
    wrong = "SHA256:" + "A" * 43
    assert meetingctl("remote", "trust", device.target, "--fingerprint", wrong).returncode == 4
    tried = meetingctl("remote", "trust", device.target, "--dry-run", "--json")
    assert json.loads(tried.stdout)["changed"] is False
    assert HostKeys(meetingctl.known_hosts).pinned(f"[127.0.0.1]:{device.port}") == ()
    trusted = meetingctl("remote", "trust", device.target, "--yes", "--json")
    assert json.loads(trusted.stdout) == {
        "target": device.target,
        "route": {"way": "address", "host": "127.0.0.1", "port": device.port},
        "key_type": "ssh-ed25519",
        "fingerprint": device.offered.fingerprint,
        "replaced": [],
        "changed": True,
    }


def test_untrust_forgets_and_needs_no_device(meetingctl, device):
    pins = HostKeys(meetingctl.known_hosts)
    pins.pin("cam-7", device.offered)
    tried = meetingctl("remote", "untrust", "cam-7", "--dry-run", "--json")
    assert json.loads(tried.stdout) == {"target": "cam-7", "removed": [device.offered.fingerprint], "changed": False}
    assert meetingctl("remote", "untrust", "cam-7").returncode == 0
    assert pins.pinned("cam-7") == ()
    nothing = meetingctl("remote", "untrust", "cam-7")
    assert (nothing.returncode, nothing.stdout) == (1, b"")
    assert b"cam-7: no host key is pinned" in nothing.stderr


@pytest.mark.real
def test_ssh_runs_openssh_with_our_pins(meetingctl, device, require_program):
    require_program("ssh", package="openssh-client")
    command = ("remote", "ssh", device.target, "-i", str(device.identity))
    done = meetingctl(*command, "-v", "--", "echo", "over ssh;", "exit", "5")
    assert (done.returncode, done.stdout) == (5, b"over ssh\n")
    assert b"address, given on the command line" in done.stderr
    printed = meetingctl(*command, "--print").stdout.decode()
    again = subprocess.run([*shlex.split(printed), "echo again"], capture_output=True, timeout=30)
    assert again.stdout == b"again\n"


def test_ssh_without_openssh_says_what_to_install(meetingctl, device, tmp_path):
    done = meetingctl("remote", "ssh", device.target, env={"HOME": str(meetingctl.home), "PATH": str(tmp_path)})
    assert done.returncode == 1
    assert b"ssh is not installed" in done.stderr
    assert b"apt install openssh-client" in done.stderr


def test_an_address_where_nothing_listens_is_unreachable(meetingctl, device):
    done = meetingctl("remote", "run", "pi@127.0.0.1:1", "--", "true")
    assert done.returncode == 69


def test_ctrl_c_ends_the_remote_command_too(meetingctl, device, tmp_path):
    marker = tmp_path / "marker"
    line = f"trap 'echo ended > {marker}; exit' TERM HUP; echo started; while :; do sleep 0.05; done"
    with meetingctl.start("remote", "run", device.target, "-i", str(device.identity), "--", line) as process:
        assert process.stdout.readline() == b"started\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    deadline_s = time.monotonic() + 10
    while not marker.exists() and time.monotonic() < deadline_s:
        time.sleep(0.02)
    assert marker.read_text() == "ended\n"
