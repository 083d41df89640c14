"""Small endpoints of one device: parent, ghost, serial, type, distribution, bundles, tags (contract 5.6 and 5.7)."""

from __future__ import annotations

import json
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Request
from pydantic import AliasChoices, Field

from meetingctl.core.errors import Conflict, Forbidden, InvalidInput, NotFound, TooLarge
from meetingctl.core.ids import NAME_PATTERN, TAG_PATTERN
from meetingctl.server.audit.chain import append
from meetingctl.server.db.schema import devices
from meetingctl.server.devices import store
from meetingctl.server.devices.routes import Operator, OperatorOrDevice, apply_change, forget
from meetingctl.server.devices.scope import is_covered
from meetingctl.server.http import (
    Body,
    SuccessReply,
    Text,
    actor_of,
    body_of,
    describe,
    read_json,
    server_of,
    with_error,
)

router = APIRouter(tags=["devices"])

MOST_TAGS = 64
_BUNDLES_BYTES = 8 * 1024
_PROVISION_BYTES = 16 * 1024


# Nothing that a log or a terminal would take for something else.
_WEB_ADDRESS = r"^https?://[^\s/?#\x00-\x1f\x7f]+[^\s\x00-\x1f\x7f]*$"


class ParentBody(Body):
    parent_device_key: Text | None = with_error("Missing parent_device_key")


class ParentReply(SuccessReply):
    parent_device_key: str | None


class GhostBody(Body):
    ghost_candidate_url: Annotated[Text, Field(max_length=2048, pattern=_WEB_ADDRESS)] | None = with_error(
        "Missing ghost_candidate_url"
    )


class GhostReply(SuccessReply):
    ghost_candidate_url: str | None


class SerialBody(Body):
    product_serial: Text = with_error("Missing product_serial", min_length=1, max_length=64)


class SerialReply(SuccessReply):
    product_serial: str


class TypeBody(Body):
    device_type: Text = Field(
        pattern=NAME_PATTERN,
        validation_alias=AliasChoices("device_type", "devicetype"),
        json_schema_extra={"error": "Missing device_type"},
    )


class TypeReply(SuccessReply):
    device_type: str


class DistributionBody(Body):
    distribution: Text = with_error("Missing distribution", pattern=NAME_PATTERN)


class DistributionReply(SuccessReply):
    distribution: str


class BundlesBody(Body):
    bundles: list[Text] = with_error("Missing bundles", max_length=64)


class BundlesReply(SuccessReply):
    bundles: list[str]


class TagsBody(Body):
    tags: list[Annotated[str, Field(pattern=TAG_PATTERN)]] = with_error("Missing or invalid tags", max_length=MOST_TAGS)


class TagsReply(SuccessReply):
    tags: list[str]


@router.put("/api/devices/{device_key}/parent", **describe(ParentReply, 404, body=ParentBody))
def set_parent(
    request: Request, device_key: str, principal: Operator, body: Annotated[ParentBody, Depends(body_of(ParentBody))]
) -> dict[str, Any]:
    """Name the device that this one belongs to, or none."""
    actor = actor_of(request, principal)
    parent_key = body.parent_device_key or None

    def change(connection: sa.Connection) -> None:
        if principal.is_limited and parent_key is not None and not is_covered(connection, principal, parent_key):
            raise Forbidden("Parent device not allowed", hint="the key is limited to other devices")
        store.set_parent(connection, actor, device_key, parent_key)

    server_of(request).writer.run(change)
    forget(request, device_key)
    return {"success": True, "parent_device_key": parent_key}


@router.put("/api/devices/{device_key}/ghost", **describe(GhostReply, 404, body=GhostBody))
def set_ghost(
    request: Request, device_key: str, principal: Operator, body: Annotated[GhostBody, Depends(body_of(GhostBody))]
) -> dict[str, Any]:
    """Keep an address for the device; the server never opens it."""
    changes = {"ghost_candidate_url": body.ghost_candidate_url}
    apply_change(request, principal, device_key, "device.ghost", changes)
    return {"success": True, **changes}


@router.put("/api/devices/{device_key}/product-serial", **describe(SerialReply, 404, 409, body=SerialBody))
def set_product_serial(
    request: Request, device_key: str, principal: Operator, body: Annotated[SerialBody, Depends(body_of(SerialBody))]
) -> dict[str, Any]:
    """Set the serial number, which only one device may have."""
    server, actor = server_of(request), actor_of(request, principal)

    def change(connection: sa.Connection) -> None:
        row = store.get_device(connection, device_key)
        has_it = sa.and_(devices.c.product_serial == body.product_serial, devices.c.id != row["id"])
        if connection.execute(sa.select(devices.c.id).where(has_it)).first() is not None:
            raise Conflict("Product serial already used")
        changes = {"product_serial": body.product_serial}
        store.change_device(connection, actor, device_key, "device.product-serial", changes)

    server.writer.run(change)
    forget(request, device_key)
    return {"success": True, "product_serial": body.product_serial}


@router.put("/api/devices/{device_key}/device-type", **describe(TypeReply, 404, body=TypeBody))
def set_device_type(
    request: Request, device_key: str, principal: Operator, body: Annotated[TypeBody, Depends(body_of(TypeBody))]
) -> dict[str, Any]:
    """Set the type; a key that is limited to types stays within them."""
    if principal.device_types is not None and body.device_type not in principal.device_types:
        raise Forbidden("Device type not allowed", hint="the key is limited to other device types")
    apply_change(request, principal, device_key, "device.type", {"device_type": body.device_type})
    return {"success": True, "device_type": body.device_type}


@router.put("/api/devices/{device_key}/distribution", **describe(DistributionReply, 404, body=DistributionBody))
def set_distribution(
    request: Request,
    device_key: str,
    principal: Operator,
    body: Annotated[DistributionBody, Depends(body_of(DistributionBody))],
) -> dict[str, Any]:
    """Set the distribution."""
    apply_change(request, principal, device_key, "device.distribution", {"distribution": body.distribution})
    return {"success": True, "distribution": body.distribution}


@router.put("/api/devices/{device_key}/bundles", **describe(BundlesReply, 404, body=BundlesBody))
def set_bundles(
    request: Request, device_key: str, principal: Operator, body: Annotated[BundlesBody, Depends(body_of(BundlesBody))]
) -> dict[str, Any]:
    """Set the bundles, at most 64 and 8 KiB of JSON."""
    if len(json.dumps(body.bundles, ensure_ascii=False).encode()) > _BUNDLES_BYTES:
        raise InvalidInput("Missing bundles", hint="at most 8 KiB of JSON")
    apply_change(request, principal, device_key, "device.bundles", {"bundles": body.bundles})
    return {"success": True, "bundles": body.bundles}


@router.put("/api/devices/{device_key}/tags", **describe(TagsReply, 404, body=TagsBody))
def set_tags(
    request: Request, device_key: str, principal: Operator, body: Annotated[TagsBody, Depends(body_of(TagsBody))]
) -> dict[str, Any]:
    """Give the device exactly these tags; a key that is limited to tags adds no others, and keeps the device."""
    actor, tags = actor_of(request, principal), sorted(set(body.tags))

    def change(connection: sa.Connection) -> None:
        if principal.tags is not None:
            device_id = store.get_device(connection, device_key)["id"]
            held = {*principal.tags, *store.tags_of(connection, [device_id]).get(device_id, ())}
            if not held.issuperset(tags) or principal.tags.isdisjoint(tags):
                raise Forbidden("Tag not allowed", hint="the key is limited to other tags")
        store.set_tags(connection, actor, device_key, tags)

    server_of(request).writer.run(change)
    forget(request, device_key)
    return {"success": True, "tags": tags}


@router.put("/api/devices/{device_key}/provision", **describe(SuccessReply, 404))
async def set_provision(request: Request, device_key: str, principal: OperatorOrDevice) -> dict[str, Any]:
    """Keep what a device says of its provisioning: a JSON object, given back as `provision` (decision D-PROVISION)."""
    if len(await request.body()) > _PROVISION_BYTES:
        raise TooLarge("Body too large")
    document = await read_json(request)
    server, actor = server_of(request), actor_of(request, principal)

    def change(connection: sa.Connection) -> None:
        updated = devices.update().where(devices.c.device_key == device_key).values(provision=document)
        if connection.execute(updated).rowcount != 1:
            raise NotFound("Device not found")
        append(connection, actor, "device.provision", f"device:{device_key}", after={"keys": sorted(document)})

    await server.writer.run_async(change)
    return {"success": True}
