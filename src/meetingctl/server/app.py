"""Compose the slices into one application."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

import meetingctl
from meetingctl.core.errors import InvalidInput, MeetingctlError, error_for_status
from meetingctl.server.audit.refusals import note_refusal
from meetingctl.server.audit.routes import router as audit_router
from meetingctl.server.builder.routes import router as builder_router
from meetingctl.server.builder.version_routes import router as builder_versions_router
from meetingctl.server.catalog.flash_routes import router as flash_router
from meetingctl.server.catalog.type_routes import router as device_types_router
from meetingctl.server.devices.presence_routes import router as presence_router
from meetingctl.server.devices.registration import router as registration_router
from meetingctl.server.devices.relation_routes import router as relations_router
from meetingctl.server.devices.routes import router as devices_router
from meetingctl.server.front import Front, error_body, error_headers
from meetingctl.server.identity.routes import router as identity_router
from meetingctl.server.identity.session_routes import router as sessions_router
from meetingctl.server.identity.user_routes import router as users_router
from meetingctl.server.keys.routes import router as keys_router
from meetingctl.server.metrics.routes import router as server_router
from meetingctl.server.state import ServerState
from meetingctl.server.tunnels.directory import RegistryDirectory
from meetingctl.server.tunnels.proxy_routes import router as proxy_router
from meetingctl.server.tunnels.routes import router as tunnels_router
from meetingctl.server.updates.channel_routes import router as update_channels_router
from meetingctl.server.updates.fleet_routes import router as fleet_updates_router
from meetingctl.server.updates.release_routes import router as releases_router
from meetingctl.server.updates.rollout_routes import router as rollouts_router
from meetingctl.server.webhooks.event_routes import router as events_router
from meetingctl.server.webhooks.routes import router as webhooks_router


def make_api(state: ServerState, directory: RegistryDirectory) -> FastAPI:
    """Return the framework's application with every route. Static paths come before `{device_key}`."""
    api = FastAPI(
        title="meetingctl",
        summary="Meeting fleet API",
        version=meetingctl.__version__,
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    api.state.server = state
    api.state.directory = directory
    for router in (
        presence_router,
        registration_router,
        flash_router,
        device_types_router,
        devices_router,
        relations_router,
        keys_router,
        builder_router,
        builder_versions_router,
        tunnels_router,
        proxy_router,
        identity_router,
        users_router,
        sessions_router,
        audit_router,
        server_router,
        fleet_updates_router,
        rollouts_router,
        releases_router,
        update_channels_router,
        webhooks_router,
        events_router,
    ):
        api.include_router(router)
    api.add_exception_handler(MeetingctlError, _on_error)
    api.add_exception_handler(HTTPException, _on_http_error)
    api.add_exception_handler(RequestValidationError, _on_invalid)
    api.add_exception_handler(Exception, _on_bug)
    return api


def make_app(state: ServerState, directory: RegistryDirectory) -> Front:
    """Return the whole application, front included."""
    return Front(make_api(state, directory), state)


def _on_error(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, MeetingctlError):
        raise error
    note_refusal(request, error)
    headers = error_headers(error, request.headers.get("user-agent", ""))
    return JSONResponse(error_body(error, request.url.path), error.http_status, headers)


def _on_http_error(request: Request, error: Exception) -> JSONResponse:
    """Give the framework's own refusals (404, 405, a broken body) the contract's shape."""
    if not isinstance(error, HTTPException):
        raise error
    text = {404: "Not found", 405: "Method not allowed"}.get(error.status_code, str(error.detail))
    payload = error_body(error_for_status(error.status_code, text), request.url.path)
    return JSONResponse(payload, error.status_code, dict(error.headers or {}))


def _on_invalid(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse(error_body(InvalidInput("Invalid request"), request.url.path), 400)


def _on_bug(request: Request, error: Exception) -> JSONResponse:
    """Answer for a bug; the exception goes on to the front, which logs it."""
    return JSONResponse(error_body(MeetingctlError("Internal error"), request.url.path), 500)
