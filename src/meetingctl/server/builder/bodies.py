"""What the builder's endpoints take and answer (contract section 5.13)."""

from __future__ import annotations

from typing import Any

from pydantic import AliasChoices, BaseModel, Field

from meetingctl.server.http import Body, SuccessReply, Text, with_error


class WhoamiReply(BaseModel):
    user: dict[str, Any]


class TypeItem(BaseModel):
    name: str
    desc: str
    icon: str | None


class TypesReply(BaseModel):
    device_types: list[TypeItem]


class DistributionItem(BaseModel):
    name: str
    last_version: str | None


class DistributionsReply(BaseModel):
    distributions: list[DistributionItem]


class PlaceBody(Body):
    device_type: Text = Field(
        min_length=1,
        validation_alias=AliasChoices("device_type", "devicetype"),
        json_schema_extra={"error": "Missing device_type or distribution"},
    )
    distribution: Text = with_error("Missing device_type or distribution", min_length=1)


class SuggestReply(BaseModel):
    suggested_version: str


class StartReply(BaseModel):
    build_id: str
    upload_url: str
    manifest_url: str


class UploadReply(SuccessReply):
    filename: str
    filetype: str
    path: str


class ManifestBody(Body):
    build_id: Text = with_error("Invalid manifest")
    manifest: dict[str, Any] = with_error("Invalid manifest")


class ValidityReply(SuccessReply):
    valid: bool
    missing: list[str]


class ManifestReply(BaseModel):
    manifest: dict[str, Any]
    valid: bool
    missing: list[str]


class PackageBody(Body):
    build_id: Text = ""
    format: Text = "tar.gz"


class PackageReply(SuccessReply):
    job_id: str
    status_url: str


class JobBody(Body):
    job_id: Text = ""


class JobReply(BaseModel):
    state: str
    progress: int
    download_url: str | None
    sha256: str | None
    log: list[str]


class CommitBody(JobBody):
    notes: Text = Field(default="", max_length=4000)


class CommitReply(SuccessReply):
    path: str
    published_url: str


class HistoryItem(BaseModel):
    version: str
    notes: str
    sha256: str
    size: int
    created_at: str
    author: str
    action: str


class HistoryReply(BaseModel):
    history: list[HistoryItem]


class VersionBody(PlaceBody):
    version: Text = ""


class DuplicateBody(VersionBody):
    new_version: Text = Field(min_length=1)
    notes: Text = Field(default="", max_length=4000)
