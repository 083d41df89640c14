"""What an installation is to reach: the options of `remote install`, read and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meetingctl.cli.invocation import Invocation
from meetingctl.core.errors import UsageError

if TYPE_CHECKING:
    from meetingctl.core.secret import Secret
    from meetingctl.core.target import Target
    from meetingctl.remote.recipes.bundle import Bundle
    from meetingctl.remote.recipes.meeting import EnvSyntax, Membership
    from meetingctl.remote.recipes.plan import Wishes


@dataclass(frozen=True, slots=True)
class Options:
    """The options of one installation as they were given."""

    device_key: str | None
    token_file: Path | None
    token_stdin: bool
    api_url: str | None
    tunnel: str | None
    timezone: str
    hostname: str | None
    package: Path | None
    release: str | None
    provision: bool
    burn_token: bool
    reboot: bool
    components: list[str]
    check_only: bool
    transfer_only: bool
    attach: bool
    dry_run: bool

    @property
    def only_looks(self) -> bool:
        return self.check_only or self.attach


def check_options(options: Options) -> None:
    """Refuse options that exclude each other. Raises: UsageError."""
    modes = {"--check-only": options.check_only, "--transfer-only": options.transfer_only, "--attach": options.attach}
    if len(chosen := [name for name, is_on in modes.items() if is_on]) > 1:
        raise UsageError(f"{' and '.join(chosen)} exclude each other", hint=f"use {chosen[0]} alone")
    if options.package is not None and options.release is not None:
        raise UsageError("--from and --release exclude each other", hint="use one of them")
    if options.token_file is not None and options.token_stdin:
        raise UsageError("--token-file and --token-stdin exclude each other", hint="use one of them")
    if not options.only_looks and options.package is None and options.release is None:
        raise UsageError("nothing to install: no package is named", hint="meetingctl builder bundle, then --from FILE")


def read_wishes(run: Invocation, options: Options, target: Target, member: Membership | None) -> Wishes:
    """Gather what the device is to become. Raises: InvalidInput, NotFound for a package that is none."""
    from meetingctl.remote.recipes.meeting import check_host_name, host_name_of
    from meetingctl.remote.recipes.plan import Wishes

    key = _device_key(options, target)
    name = check_host_name(options.hostname) if options.hostname else host_name_of(key) if key else None
    return Wishes(
        _env_syntax(),
        hostname=name if options.provision else None,
        timezone=options.timezone if options.provision else None,
        member=member,
        bundle=_bundle(run, options),
        components=tuple(name.strip() for word in options.components for name in word.split(",") if name.strip()),
        burns_token=options.burn_token,
        reboots=options.reboot,
        only_transfer=options.transfer_only,
    )


def _env_syntax() -> EnvSyntax:
    from meetingctl.device.config.envfile import parse_env, update_env
    from meetingctl.remote.recipes.meeting import EnvSyntax

    def read(text: str) -> Mapping[str, str]:
        return parse_env(text).values()

    def merge(text: str, changes: Mapping[str, str]) -> str:
        return update_env(parse_env(text), dict(changes)).render()

    return EnvSyntax(read, merge)


def _bundle(run: Invocation, options: Options) -> Bundle | None:
    from meetingctl.remote.recipes.bundle import read_bundle

    if options.only_looks and options.package is None:
        return None
    return read_bundle(options.package or _fetch(run, str(options.release)))


def _fetch(run: Invocation, release: str) -> Path:
    """Download a release into the cache, going on where an earlier try ended. Raises: MeetingctlError."""
    from meetingctl.cli.fleet_releases import read_release
    from meetingctl.remote.install_release import fetch_release

    with run.open_client() as client:
        return fetch_release(client, read_release(run, release), run.places.cache_dir / "releases")


def _device_key(options: Options, target: Target) -> str | None:
    from meetingctl.core.ids import parse_device_key
    from meetingctl.core.target import DeviceTarget

    key = options.device_key or (target.key if isinstance(target, DeviceTarget) else None)
    return parse_device_key(key) if key else None


def read_membership(run: Invocation, options: Options, target: Target) -> Membership | None:
    """Gather what makes the device one of the fleet; None without a key. Raises: UsageError, InvalidInput."""
    from urllib.parse import urlsplit

    from meetingctl.core.net import is_loopback, parse_endpoint
    from meetingctl.core.target import AddressTarget
    from meetingctl.remote.recipes.meeting import Membership

    key = _device_key(options, target)
    if key is None:
        return None
    url = (options.api_url or run.settings.server_url).rstrip("/")
    url = url if url.endswith("/api") else f"{url}/api"
    host = urlsplit(url).hostname or ""
    is_here = isinstance(target, AddressTarget) and is_loopback(target.host)
    if is_loopback(host) and not is_here:
        raise UsageError(f"a device cannot reach {url}", hint="name the server as devices see it with --api-url URL")
    tunnel_host, tunnel_port = parse_endpoint(options.tunnel or host, default_port=9001)
    return Membership(key, _read_token(run, options), url, tunnel_host, tunnel_port)


def _read_token(run: Invocation, options: Options) -> Secret:
    """Return the token code from where it was given; an empty one leaves that of the device."""
    from meetingctl.core.ids import parse_token_code
    from meetingctl.core.paths import read_small_text
    from meetingctl.core.secret import Secret

    if options.token_file is not None:
        text = read_small_text(options.token_file).strip()
    elif options.token_stdin:
        text = run.read_secret("Token code", flag="--token-file FILE").reveal()
    else:
        text = run.env.get("MEETING_TOKEN_CODE", "").strip()
    return Secret(parse_token_code(text)) if text else Secret("")


@dataclass(frozen=True, slots=True)
class Fleet:
    """The server, as the device when its token code is known, else as the operator."""

    run: Invocation
    member: Membership | None
    name: str

    def take_token(self) -> int:
        """Consume one token; return how many are left."""
        assert self.member is not None
        with self.run.open_client(token_code=self.member.token or None) as client:
            return client.take_token(self.member.device_key)

    def report(self, version: str) -> None:
        """Tell which version the device has now, as its agent would after an update."""
        assert self.member is not None
        with self.run.open_client(token_code=self.member.token or None) as client:
            client.releases.report(self.member.device_key, to_version=version, from_version="", status="success")

    def read_device(self) -> Mapping[str, Any]:
        """Return the device's record."""
        assert self.member is not None
        with self.run.open_client(token_code=self.member.token or None) as client:
            return client.get_device(self.member.device_key)
