"""Decide what a changed configuration asks for: nothing, new properties, new media, another port."""

from __future__ import annotations

from dataclasses import dataclass

from meetingctl.device.config import DeviceConfig
from meetingctl.device.stream.pipeline import LIVE_ELEMENTS, LaunchSpec


@dataclass(frozen=True, slots=True)
class MountPlan:
    """What happens to one stream; at most one of the two is set."""

    set_live: bool = False
    swap: bool = False


@dataclass(frozen=True, slots=True)
class ReloadPlan:
    """What happens to the daemon. `drop_clients`: the source opens once, so the old media must go first."""

    login: bool = False
    transports: bool = False
    rebind: bool = False
    main: MountPlan = MountPlan()
    drop_clients: bool = False

    @property
    def actions(self) -> tuple[str, ...]:
        """Name what is done, for logs and answers."""
        named = {
            "login": self.login,
            "transports": self.transports,
            "rebind": self.rebind,
            "live": self.main.set_live,
            "swap": self.main.swap,
        }
        return tuple(name for name, is_done in named.items() if is_done)


def plan_mount(old: LaunchSpec, new: LaunchSpec, *, moved: bool = False) -> MountPlan:
    """Compare what runs with what should run.

    The launch line decides, not the list of changed keys: a key that this source ignores changes nothing.
    """
    if moved or old.launch != new.launch or old.drawn != new.drawn or _fixed(old) != _fixed(new):
        return MountPlan(swap=True)
    return MountPlan(set_live=dict(old.properties) != dict(new.properties))


def plan_reload(old: DeviceConfig, new: DeviceConfig, old_spec: LaunchSpec, new_spec: LaunchSpec) -> ReloadPlan:
    """Plan the way from one configuration to another."""
    main = plan_mount(old_spec, new_spec, moved=_pool(old) != _pool(new) or old.rtsp_path != new.rtsp_path)
    return ReloadPlan(
        login=_login(old) != _login(new),
        transports=set(old.rtsp_protocols) != set(new.rtsp_protocols),
        rebind=old.rtsp_port != new.rtsp_port,
        main=main,
        drop_clients=main.swap and old_spec.opens_once,
    )


def should_step_down(
    encoder: str, *, is_hardware: bool, failures: list[tuple[str, float]], window_s: float = 5.0
) -> bool:
    """Say whether the next encoder should take over: the media failed twice in a row just after its start.

    `failures` are (failing element, age of the media in seconds), oldest first. A hardware encoder is blamed for every
    early failure, because its driver often lets another element report it; a software encoder only for its own.
    """
    early = [name for name, age_s in failures[-2:] if age_s <= window_s]
    if len(early) < 2 or not encoder:
        return False
    return all(is_hardware or name.startswith("encoder") for name in early)


def _fixed(spec: LaunchSpec) -> dict[str, dict[str, object]]:
    return {name: dict(values) for name, values in spec.properties.items() if name not in LIVE_ELEMENTS}


def _login(config: DeviceConfig) -> tuple[object, ...]:
    return config.rtsp_user, config.rtsp_password, config.rtsp_auth_method, config.rtsp_realm


def _pool(config: DeviceConfig) -> tuple[object, ...]:
    is_offered = "udp-mcast" in config.rtsp_protocols
    return is_offered, config.rtsp_multicast_base, config.rtsp_multicast_port_min, config.rtsp_multicast_port_max
