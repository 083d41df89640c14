"""The contract's endpoints of the distribution builder: keys of the replies, and each documented error."""

from __future__ import annotations

from typing import Any

import pytest
from cases import Slice, check_reply, matching
from planes import Fleet, MakeFleet, wait_for

from meetingctl.server.builder.worker import claim, pack

BUILDER = matching("/api/builder/")
SLICE = Slice(BUILDER)
PLACE = {"device_type": "rpi", "distribution": "d1"}
MANIFEST = {**PLACE, "version": "1.0"}


class Builder:
    """A fleet with a finished build, its job, and an unfinished one."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.build = self.start(MANIFEST)
        self.upload(self.build)
        self.done = self.package(self.build)
        self.finish(self.done)
        self.queued = self.package(self.build)
        self.empty = self.start({})

    def call(self, endpoint: str, **rest: Any) -> Any:
        method, path = endpoint.split(" ", 1)
        return self.fleet.call(method, path, **({"key": self.fleet.key("operator")} | rest))

    def start(self, manifest: dict[str, Any]) -> str:
        answer = self.call("POST /api/builder/start", json=manifest)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["build_id"])

    def upload(self, build: str, name: str = "a.bin", content: bytes = b"x", **more: Any) -> Any:
        form = {"data": {"build_id": build, "type": "firmware"}, "files": {"file": (name, content)}}
        return self.call("POST /api/builder/upload-file", **(form | more))

    def package(self, build: str, **more: Any) -> str:
        answer = self.call("POST /api/builder/package", json={"build_id": build, **more})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["job_id"])

    def finish(self, job: str) -> None:
        """Do what the worker of a server does."""
        row = self.fleet.write(lambda connection: claim(connection, "test"))
        assert row["id"] == job
        pack(self.fleet.state, "test", dict(row))
        state = self.call("GET /api/builder/package-status", params={"job_id": job}).json()
        assert state["state"] == "done", state

    def good(self, endpoint: str) -> dict[str, Any]:
        version = {**PLACE, "version": "0.9"}
        return {
            "GET /api/builder/distributions": {"params": {"type": "rpi"}},
            "POST /api/builder/suggest-version": {"json": PLACE},
            "POST /api/builder/start": {"json": MANIFEST},
            "POST /api/builder/upload-file": {
                "data": {"build_id": self.build},
                "files": {"file": ("b.bin", b"y")},
            },
            "GET /api/builder/manifest": {"params": {"build_id": self.build}},
            "POST /api/builder/manifest": {"json": {"build_id": self.build, "manifest": MANIFEST}},
            "POST /api/builder/package": {"json": {"build_id": self.build}},
            "GET /api/builder/package-status": {"params": {"job_id": self.done}},
            "POST /api/builder/commit": {"json": {"job_id": self.done}},
            "GET /api/builder/history": {"params": {"type": "rpi", "distribution": "d1"}},
            "POST /api/builder/rollback": {"json": version},
            "POST /api/builder/duplicate": {"json": {**version, "new_version": "2.0"}},
        }.get(endpoint, {})

    def bad(self, endpoint: str, text: str) -> dict[str, Any]:
        unknown = {"build_id": "0" * 32, "job_id": "0" * 32}
        good = self.good(endpoint)
        match text:
            case "Unauthorized":
                return {"key": None}
            case "Missing type" | "Missing type or distribution" | "Missing build_id":
                return {"params": {}}
            case "Device type not found":
                return {"params": {"type": "nothing"}}
            case "Missing device_type or distribution":
                return {"json": {}}
            case "Invalid manifest":
                return {"json": {"build_id": self.build, "manifest": [], "files": "x"}}
            case "Missing build_id or file":
                return {"data": {}, "files": {"file": ("b.bin", b"y")}}
            case "File too large":
                return {"files": {"file": ("b.bin", b"x" * (1024**2 + 1))}}
            case "Invalid file name":
                return {"files": {"file": ("../b.bin", b"x")}}
            case "Manifest not valid":
                return {"json": {"build_id": self.empty}}
            case "Unsupported format":
                return {"json": {"build_id": self.build, "format": "rar"}}
            case "Too many jobs":
                self.package(self.build)
            case "Job not finished":
                return {"json": {"job_id": self.queued}, "job": self.queued}
            case "Version not found":
                return {"json": {**PLACE, "version": "7", "new_version": "8"}}
            case "Version already published" if "commit" in endpoint:
                other = self.start({**MANIFEST, "version": "0.9"})
                self.upload(other, content=b"other")
                self.finish_queue()
                job = self.package(other)
                self.finish(job)
                return {"json": {"job_id": job}}
            case "Version already published":
                return {"json": {**PLACE, "version": "0.9", "new_version": "0.9"}}
            case "Build not found" | "Job not found" if "json" in good:
                return {"json": {**good["json"], **unknown}}
            case "Build not found" if "data" in good:
                return {"data": {"build_id": "0" * 32}}
            case "Build not found" | "Job not found":
                return {"params": unknown, "job": "0" * 32}
        return {}

    def finish_queue(self) -> None:
        self.finish(self.queued)


@pytest.fixture
def builder(make_fleet: MakeFleet) -> Builder:
    fleet = make_fleet(builder_file_max_mib=1, builder_jobs_max=2)
    fleet.call("POST", "/api/device-types", key=fleet.admin, json={"name": "rpi", "serial_prefix": "R"})
    builder = Builder(fleet)
    first = builder.start({**MANIFEST, "version": "0.9"})
    builder.upload(first)
    builder.finish(builder.queued)
    job = builder.package(first)
    builder.finish(job)
    assert builder.call("POST /api/builder/commit", json={"job_id": job}).status_code == 200
    builder.queued = builder.package(builder.build)
    return builder


def send(builder: Builder, endpoint: str, **rest: Any) -> Any:
    job = rest.pop("job", builder.done)
    return builder.call(endpoint.replace("{job_id}", job), **(builder.good(endpoint) | rest))


@pytest.mark.parametrize("endpoint", BUILDER)
def test_reply_has_the_documented_keys(builder: Builder, endpoint: str) -> None:
    check_reply(endpoint, send(builder, endpoint))


@pytest.mark.parametrize(("endpoint", "status", "text"), SLICE.errors())
def test_documented_error(builder: Builder, endpoint: str, status: int, text: str) -> None:
    answer = send(builder, endpoint, **builder.bad(endpoint, text))
    assert (answer.status_code, answer.json()) == (status, {"error": text})


def test_an_address_of_a_job_is_one_that_answers(builder: Builder) -> None:
    answer = builder.call("POST /api/builder/start", json=MANIFEST).json()
    assert builder.call(f"GET {answer['manifest_url']}").json()["missing"] == ["files"]
    job = builder.call("GET /api/builder/package-status", params={"job_id": builder.done}).json()
    assert wait_for(lambda: builder.call(f"GET {job['download_url']}").content, "the archive")
