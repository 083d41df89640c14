"""The headers of a delivery, and when to try again. Pure."""

from __future__ import annotations

import hashlib
import hmac
import random
import secrets

RETRY_CAP_S = 3600.0
_JITTER = random.SystemRandom()


def new_secret() -> str:
    """Make a webhook's secret: 256 random bits."""
    return f"whsec_{secrets.token_urlsafe(32)}"


def signature(secret: str, at_s: int, body: bytes) -> str:
    """Return the value of `X-Meetingctl-Signature`: the time, and HMAC-SHA256 over `TIME.BODY`."""
    digest = hmac.new(secret.encode(), str(at_s).encode() + b"." + body, hashlib.sha256).hexdigest()
    return f"t={at_s},v1={digest}"


def delivery_headers(*, secret: str, event: str, delivery: str, attempt: int, at_s: int, body: bytes) -> dict[str, str]:
    """Return the headers of one attempt."""
    return {
        "Content-Type": "application/json",
        "X-Meetingctl-Event": event,
        "X-Meetingctl-Delivery": delivery,
        "X-Meetingctl-Attempt": str(attempt),
        "X-Meetingctl-Signature": signature(secret, at_s, body),
    }


def choose_retry_s(attempts: int, first_s: float) -> float:
    """Return the pause after the n-th failed attempt: threefold each time up to an hour, a quarter of it at random."""
    pause_s = min(RETRY_CAP_S, first_s * 3.0 ** min(max(attempts, 1) - 1, 32))
    return pause_s * _JITTER.uniform(0.75, 1.0)
