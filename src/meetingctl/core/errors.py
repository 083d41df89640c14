"""Every error that meetingctl raises on purpose, in one tree.

A leaf is named after what the caller does next, and carries what each boundary needs: the exit code of the command
line, the status of the HTTP API and a stable slug.

    MeetingctlError            1   500  error
    ├── UsageError             2   400  usage               correct the command line
    ├── InvalidInput           2   400  invalid_input       correct the value
    │   └── UnsafeName         2   400  unsafe_name         choose a plain name
    ├── TooLarge               2   413  too_large           send less
    ├── UnsupportedMedia       2   415  unsupported_media   send another content type
    ├── NotFound               1   404  not_found           look for the right name
    │   └── NotYours           1   404  not_yours           ask its owner
    ├── Conflict               1   409  conflict            choose another name, or look at what is there
    ├── AuthError              4   401  unauthenticated     log in
    │   ├── MissingCredential  4   401  auth_missing        log in
    │   ├── ExpiredCredential  4   401  auth_expired        ask for a new key
    │   ├── Forbidden          4   403  forbidden           ask somebody with a higher role
    │   └── HostKeyChanged     4   403  host_key_changed    compare fingerprints, then trust the new key
    ├── Busy                  75   503  busy                try again later
    │   └── RateLimited       75   429  rate_limited        wait `retry_after_s`, then try again
    ├── StorageFull            1   507  storage_full        free some space
    ├── SomeFailed             3   500  some_failed         retry the targets that failed
    ├── Unreachable           69   504  unreachable         check the network or the address
    ├── TransportLost        255   502  transport_lost      the link to one remote broke, as `ssh` reports it
    └── ConfigError           78   500  config              correct the configuration

`message` says what failed, on what, with the number: lower case, no full stop, no secret. `hint` is one runnable
command. The HTTP API uses the texts of the Meeting contract, which start with a capital.
"""

from __future__ import annotations


class MeetingctlError(Exception):
    """The root: something was tried and failed."""

    exit_code = 1
    http_status = 500
    code = "error"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(MeetingctlError):
    """The command line is wrong, or a prompt was needed and is not allowed."""

    exit_code, http_status, code = 2, 400, "usage"


class InvalidInput(MeetingctlError):
    """A value is malformed or out of range."""

    exit_code, http_status, code = 2, 400, "invalid_input"


class UnsafeName(InvalidInput):
    """A name that came from outside could lead out of the folder that it belongs to."""

    code = "unsafe_name"


class TooLarge(MeetingctlError):
    """A body, file or line is over its cap."""

    exit_code, http_status, code = 2, 413, "too_large"


class UnsupportedMedia(MeetingctlError):
    """The content type is not one that the endpoint reads."""

    exit_code, http_status, code = 2, 415, "unsupported_media"


class NotFound(MeetingctlError):
    """The named thing does not exist."""

    exit_code, http_status, code = 1, 404, "not_found"


class NotYours(NotFound):
    """The thing belongs to somebody else, to whom it looks as if it did not exist."""

    code = "not_yours"


class Conflict(MeetingctlError):
    """The thing exists already, or its state does not allow this."""

    exit_code, http_status, code = 1, 409, "conflict"


class AuthError(MeetingctlError):
    """The credential is missing or wrong."""

    exit_code, http_status, code = 4, 401, "unauthenticated"


class MissingCredential(AuthError):
    """A credential is needed and none was presented."""

    exit_code, http_status, code = 4, 401, "auth_missing"


class ExpiredCredential(AuthError):
    """The credential was right until its end."""

    exit_code, http_status, code = 4, 401, "auth_expired"


class Forbidden(AuthError):
    """The credential is right, its role is too low or the object refuses."""

    exit_code, http_status, code = 4, 403, "forbidden"

    def __init__(self, message: str, *, hint: str | None = None, needed: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.needed = needed  # the role that would do


class HostKeyChanged(AuthError):
    """A machine presents another SSH host key than the pinned one."""

    exit_code, http_status, code = 4, 403, "host_key_changed"


class Busy(MeetingctlError):
    """A resource is used up or locked for now."""

    exit_code, http_status, code = 75, 503, "busy"

    def __init__(self, message: str, *, hint: str | None = None, retry_after_s: int = 1) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class RateLimited(Busy):
    """Too many calls or failures; `retry_after_s` says how long to wait."""

    exit_code, http_status, code = 75, 429, "rate_limited"


class StorageFull(MeetingctlError):
    """The disk or a quota is full."""

    exit_code, http_status, code = 1, 507, "storage_full"


class SomeFailed(MeetingctlError):
    """Some targets failed, others did not."""

    exit_code, http_status, code = 3, 500, "some_failed"


class Unreachable(MeetingctlError):
    """Nothing answered at the address."""

    exit_code, http_status, code = 69, 504, "unreachable"


class TransportLost(MeetingctlError):
    """The connection to a single remote target was lost (exit code as `ssh` uses it)."""

    exit_code, http_status, code = 255, 502, "transport_lost"


class ConfigError(MeetingctlError):
    """The configuration is invalid; daemons do not restart after it."""

    exit_code, http_status, code = 78, 500, "config"


def error_for_status(status: int, message: str, *, hint: str | None = None) -> MeetingctlError:
    """Turn an HTTP error status into the leaf that a client raises for it."""
    leaves = {
        400: InvalidInput,
        401: AuthError,
        403: Forbidden,
        404: NotFound,
        409: Conflict,
        413: TooLarge,
        415: UnsupportedMedia,
        422: InvalidInput,
        429: RateLimited,
        503: Busy,
        504: Unreachable,
        507: StorageFull,
    }
    return leaves.get(status, MeetingctlError)(message, hint=hint)
