"""What routes share: reading bodies, asking for a role, and describing both in the OpenAPI document."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import msgspec
from fastapi import Depends, Request
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from meetingctl.core.errors import Forbidden, InvalidInput, MissingCredential, UnsupportedMedia
from meetingctl.core.net import is_loopback
from meetingctl.server.audit.chain import Actor
from meetingctl.server.identity.credentials import Credentials, bearer_of
from meetingctl.server.identity.principal import ANONYMOUS, LOCAL, OPEN, Principal, Role, Service, permission_of
from meetingctl.server.state import ServerState

if TYPE_CHECKING:
    from meetingctl.server.front import RequestFacts

JSON_DEPTH = 32
MAX_INT = 2**63 - 1
B = TypeVar("B", bound="Body")
Limits = Literal["device", "types", "both"]


class ErrorReply(BaseModel):
    """The error shape of every family but `/api/admin`."""

    error: str


class SuccessReply(BaseModel):
    """The answer of most changes."""

    success: bool


class Body(BaseModel):
    """A JSON body: unknown keys are ignored, types are strict.

    A field may carry the contract's error text: `Field(json_schema_extra={"error": "Missing note"})`.
    """

    model_config = ConfigDict(extra="ignore", strict=True, populate_by_name=True)


def _bit(value: Any) -> Any:
    """Accept true, false, 0, 1, "0" and "1" (decision D-BOOL)."""
    if value in (0, 1, "0", "1") and not isinstance(value, float):
        return bool(int(value))
    raise ValueError("expected 0 or 1")


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("NUL is not allowed")
    return text


Bit = Annotated[bool, BeforeValidator(_bit, json_schema_input_type=bool | int)]
Text = Annotated[str, AfterValidator(_no_nul)]
BigInt = Annotated[int, Field(ge=-MAX_INT - 1, le=MAX_INT)]


def with_error(text: str, **limits: Any) -> Any:
    """Return a required field that answers `text` when it is missing or wrong."""
    return Field(json_schema_extra={"error": text}, **limits)


def server_of(request: Request) -> ServerState:
    """Return the running server's parts."""
    state: ServerState = request.app.state.server
    return state


def facts_of(request: Request) -> RequestFacts:
    """Return what the front found out about the request."""
    facts: RequestFacts = request.scope["facts"]
    return facts


def actor_of(request: Request, principal: Principal) -> Actor:
    """Return who is to stand in the audit log."""
    facts = facts_of(request)
    return Actor(principal.name, facts.peer, facts.request_id)


async def read_json(request: Request) -> dict[str, Any]:
    """Read a JSON object; an empty body is an empty object.

    Clients of the original send JSON with a form's content type or none at all: both are read.
    Raises: UnsupportedMedia, InvalidInput for bad JSON, too deep nesting or a NUL.
    """
    raw = await request.body()
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    lenient = ("", "text/plain", "application/x-www-form-urlencoded")
    if raw and content_type not in lenient and not content_type.endswith("json"):
        raise UnsupportedMedia("Unsupported content type", hint="send application/json")
    if not raw.strip():
        return {}
    if _is_deep(raw) or b"\\u0000" in raw:
        raise InvalidInput("Invalid JSON")
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidInput("Invalid JSON") from None
    if not isinstance(value, dict):
        raise InvalidInput("Invalid JSON")
    return value


def _is_deep(raw: bytes) -> bool:
    """Say whether brackets nest deeper than `JSON_DEPTH`; brackets inside strings count too, which errs on one side."""
    if raw.count(b"[") + raw.count(b"{") <= JSON_DEPTH:
        return False
    depth = 0
    for byte in raw:
        if byte in b"[{":
            depth += 1
            if depth > JSON_DEPTH:
                return True
        elif byte in b"]}":
            depth -= 1
    return False


def parse_body(model: type[B], value: dict[str, Any]) -> B:
    """Check an object against a model. Raises: InvalidInput with the contract's text for the first bad field."""
    try:
        return model.model_validate(value)
    except ValidationError as exc:
        location = exc.errors(include_url=False, include_context=False, include_input=False)[0]["loc"]
        name = str(location[0]) if location else "body"
        raise InvalidInput(_error_text(model, name)) from None


def _error_text(model: type[Body], name: str) -> str:
    for field_name, info in model.model_fields.items():
        if name in {field_name, info.alias, str(info.validation_alias)}:
            extra = info.json_schema_extra
            if isinstance(extra, dict) and "error" in extra:
                return str(extra["error"])
    return f"Missing or invalid field: {name}"


def body_of(model: type[B]) -> Callable[[Request], Awaitable[B]]:
    """Return a dependency that reads the body as `model`; name it after the one that checks the role."""

    async def read(request: Request) -> B:
        return parse_body(model, await read_json(request))

    return read


def query_int(request: Request, name: str, default: int, least: int, most: int) -> int:
    """Read a whole number from the query, clamped (decision D-PAGING). Raises: InvalidInput `Invalid NAME`."""
    text = request.query_params.get(name)
    if text is None or text == "":
        return default
    digits = text.removeprefix("-")
    if not digits.isascii() or not digits.isdigit():
        raise InvalidInput(f"Invalid {name}")
    number = int(text) if len(text) <= 19 else (most if text[0] != "-" else least)
    return max(least, min(most, number))


@dataclasses.dataclass(frozen=True, slots=True)
class Access:
    """Who may call a route: a role, the device of the path, service keys, this machine, or, in mode compat, anybody.

    A key that is limited to device types or tags gets no further than to the devices within, unless the route looks at
    such limits itself: at `types`, or at `both`.
    """

    role: Role
    device: bool = False
    services: tuple[Service, ...] = ()
    compat_anonymous: bool = False
    open_mode: bool = True  # False: not even in mode legacy-open without a credential
    permission: str | None = None
    loopback: bool = False  # programs on this machine without a credential
    limits: Limits = "device"

    def allows(self, principal: Principal, device_key: str | None, mode: str) -> bool:
        """Decide. Pure."""
        if principal.kind == "anonymous":
            return self.compat_anonymous and mode == "compat"
        if principal.kind == "open":
            return self.open_mode
        if principal.kind == "local":
            return self.loopback
        if principal.kind == "device":
            return self.device and device_key is not None and principal.is_device(device_key)
        if principal.service is not None:
            return principal.service in self.services
        if not principal.has_role(self.role) or not principal.may(self.permission or permission_of(self.role)):
            return False
        return device_key is not None or self._heeds_limits(principal)

    def _heeds_limits(self, principal: Principal) -> bool:
        if principal.tags is not None:
            return self.limits == "both"
        return principal.device_types is None or self.limits != "device"


def is_local(request: Request) -> bool:
    """Say whether a program on this machine asks, and not a proxy on it that carries strangers."""
    facts = facts_of(request)
    carried = any(name in request.headers for name in ("x-forwarded-for", "forwarded", "x-real-ip"))
    return is_loopback(facts.tcp_peer) and is_loopback(facts.peer) and not carried


def presented(request: Request) -> Credentials:
    """Return the credentials in the headers; false when there are none."""
    facts = facts_of(request)
    return Credentials(
        bearer_of(request.headers.get("authorization", "")) or request.headers.get("x-meeting-ssh-token", "").strip(),
        request.headers.get("x-token-code", ""),
        facts.peer,
        facts.request_id,
    )


async def identify(request: Request, device_key: str | None) -> Principal:
    """Return the caller. Raises: AuthError for a wrong credential, whatever the route."""
    state = server_of(request)
    if given := presented(request):
        principal = await state.credentials.verify(given, device_key)
        request.state.principal = principal  # for the record of a refusal
        return principal
    return OPEN if state.settings.mode == "legacy-open" else ANONYMOUS


async def authorize(request: Request, access: Access, device_key: str | None) -> Principal:
    """Identify the caller and check its rights. Raises: AuthError, Forbidden."""
    if access.loopback and is_local(request) and not presented(request):
        return LOCAL
    principal = await identify(request, device_key)
    server = server_of(request)
    if access.allows(principal, device_key, server.settings.mode):
        if device_key is None or await server.credentials.is_within_limits(principal, device_key):
            return principal
    elif principal.kind in ("anonymous", "open"):
        raise MissingCredential("Unauthorized", hint="meetingctl login")
    raise Forbidden("Forbidden", needed=access.role.name.lower())


def need(
    role: Role,
    *,
    device: bool = False,
    services: tuple[Service, ...] = (),
    compat_anonymous: bool = False,
    open_mode: bool = True,
    permission: str | None = None,
    loopback: bool = False,
    limits: Limits = "device",
) -> Any:
    """Return the dependency that gives a route its principal. `permission` is one of `principal.PERMISSIONS`."""
    access = Access(role, device, services, compat_anonymous, open_mode, permission, loopback, limits)

    async def check(request: Request) -> Principal:
        return await authorize(request, access, request.path_params.get("device_key"))

    return Depends(check)


_STATUS_TEXT = {
    400: "A value is missing or wrong",
    401: "The credential is missing or wrong",
    403: "The role is too low, or the device refuses",
    404: "Not found",
    405: "Method not offered",
    409: "Conflict",
    413: "The body is too large",
    415: "Wrong content type",
    429: "Too many requests; see Retry-After",
    500: "Internal error",
    503: "Busy; see Retry-After",
    507: "Storage full",
}


def describe(
    reply: Any = None,
    *errors: int,
    body: type[Body] | None = None,
    query: dict[str, dict[str, Any]] | None = None,
    summary: str | None = None,
) -> dict[str, Any]:
    """Return the keyword arguments of a route that document it: reply model, statuses, body and query parameters."""
    statuses = sorted({400, 401, 403, 413, 429, 503, *errors, *((415,) if body else ())})
    responses: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorReply, "description": _STATUS_TEXT[status]} for status in statuses
    }
    if reply is not None:
        responses[200] = {"model": reply, "description": "Done"}
    extra: dict[str, Any] = {}
    if body is not None:
        schema = body.model_json_schema(ref_template="#/components/schemas/{model}", by_alias=True)
        extra["requestBody"] = {"content": {"application/json": {"schema": schema}}}
    if query:
        extra["parameters"] = [{"name": name, "in": "query", "schema": schema} for name, schema in query.items()]
    described: dict[str, Any] = {"responses": responses, "response_model": None, "openapi_extra": extra}
    return described | ({"summary": summary} if summary else {})
