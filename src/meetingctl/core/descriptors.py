"""How many files and sockets this process may have open."""

from __future__ import annotations

import contextlib
import resource


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open descriptors to the hard one and return the limit that holds now.

    Services start with a soft limit of 1024 for the sake of `select`, which nothing here uses. A limit that cannot be
    raised stays as it is.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # Some kernels take no unlimited number of descriptors, whatever the hard limit says.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
