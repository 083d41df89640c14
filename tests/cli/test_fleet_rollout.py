"""`fleet rollout` against a real server: what a dry run tells is what the server would say."""

from __future__ import annotations

from pathlib import Path

from .runner import Cli


def publish(admin: Cli, own_name: str, folder: Path) -> str:
    archive = folder / "app.zip"
    archive.write_bytes(b"PK\x05\x06" + bytes(18))
    made = admin("fleet", "publish", str(archive), "--type", own_name, "--distribution", "d1", "--release-version", "1")
    assert made.code == 0, made.err
    return f"{own_name}/d1/1"


def test_a_dry_run_is_refused_as_the_server_refuses(admin: Cli, own_name: str, tmp_path: Path) -> None:
    release = publish(admin, own_name, tmp_path)
    made = admin("fleet", "create", own_name, "--type", own_name, "--distribution", "d1")
    assert made.code == 0, "without a device the rollout would end by itself"
    start = ("fleet", "rollout", "start", release)
    assert "would roll out" in admin(*start, "--dry-run").err
    number = str(admin(*start, "--json").json["id"])

    refused, told = admin(*start), admin(*start, "--dry-run")
    assert refused.err == (
        f"error: rollout: a rollout runs on this channel\n\nhint: meetingctl fleet rollout status {number}\n"
    )
    assert (told.code, told.err) == (refused.code, refused.err)
    assert admin(*start, "--channel", "beta", "--dry-run").code == 0

    abort = ("fleet", "rollout", "abort", number)
    assert admin(*abort, "--dry-run").code == 0
    assert admin(*abort, "--yes").code == 0
    refused, told = admin(*abort, "--yes"), admin(*abort, "--dry-run")
    assert refused.err.startswith(f"error: rollout {number}: the rollout is aborted\n\nhint: ")
    assert (told.code, told.err) == (refused.code, refused.err)
    assert admin(*start, "--dry-run").code == 0
