"""`meetingctl remote smoke`: do devices do their work?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meetingctl.cli.invocation import Invocation
from meetingctl.cli.remote_devices import Devices, on_devices, rows_of

if TYPE_CHECKING:
    from meetingctl.core.target import Target
    from meetingctl.remote.access import Access
    from meetingctl.remote.fanout import Done, Heard, Report
    from meetingctl.remote.smoke import Onvif, Round, Stream
    from meetingctl.remote.visit import Visit


@on_devices()
def check_devices(
    ctx: typer.Context,
    devices: Devices,
    only: Annotated[
        str, typer.Option("--only", metavar="A,B", help="of units, disk, clock, rtsp, onvif, agent, heartbeat")
    ] = "",
) -> int:
    """Check whether devices do their work: units, disk, clock, stream, ONVIF, agent, heartbeat.

    The stream is described from here: directly where the device is reached directly, through its SSH connection where
    it is reached through the tunnel. ONVIF is asked what a recorder asks; it needs the direct way. Agent and heartbeat
    are what the fleet server says of it; an address has neither.

    Exit code: 0 when all is well, 1 when a check failed; of several devices 3 when some are not well.

    Examples:
      meetingctl remote smoke demo-cam
      meetingctl remote smoke demo-cam --only onvif
      meetingctl remote smoke --all --only units,rtsp --json
    """
    from meetingctl.remote.smoke import choose_checks

    names = choose_checks(only)
    chosen = devices.choose()
    with chosen.open() as access:

        async def act(target: Target, heard: Heard) -> Done:
            from meetingctl.remote.smoke import run_checks

            async def work(visit: Visit) -> Done:
                return _fold(str(target), await run_checks(round_of(visit, access), names))

            return await chosen.visit_one(access, target, heard, work)

        return chosen.act(act, lambda reports: _show(devices.run, reports))


def round_of(visit: Visit, access: Access) -> Round:
    """Return what the checks of the device that is visited may use."""
    from meetingctl.remote.smoke import Round

    return Round(visit, access.finder.client if access.finder else None, _find_stream, _find_onvif)


def _fold(target: str, rows: Sequence[dict[str, Any]]) -> Done:
    from meetingctl.core.errors import MeetingctlError
    from meetingctl.remote.fanout import Done

    bad = [row["check"] for row in rows if row["ok"] is False]
    error = None
    if bad:
        error = MeetingctlError(
            f"{target}: {len(bad)} of {len(rows)} checks failed: {', '.join(bad)}",
            hint=f"meetingctl remote logs {target}",
        )
    return Done(details={"checks": list(rows)}, error=error)


async def _find_stream(visit: Visit) -> Stream:
    """Read where the stream is from the device's config.env, with its login."""
    from meetingctl.core.layout import CONFIG_ENV
    from meetingctl.device.config import load_config
    from meetingctl.device.config.envfile import parse_env
    from meetingctl.device.rtsp import Endpoint, Login, describe
    from meetingctl.remote.smoke import DESCRIBE_S, Stream
    from meetingctl.remote.visit import Privilege

    answer = await visit.answer(f"cat {CONFIG_ENV}", privilege=Privilege.wanted)
    config = load_config(parse_env(answer.stdout)).config
    login = Login(config.rtsp_user, config.rtsp_password) if config.is_auth_on else None

    def ask(host: str, port: int) -> str:
        media = describe(Endpoint(host, port, config.rtsp_path, login), timeout_s=DESCRIBE_S)
        return f"{len(media)} media: {', '.join(item.kind for item in media)}"

    return Stream(config.rtsp_port, ask)


async def _find_onvif(visit: Visit) -> Onvif | None:
    """Read port and login of the ONVIF service from the device's files."""
    from meetingctl.core.layout import CONFIG_ENV, ONVIF_CONF
    from meetingctl.core.secret import Secret
    from meetingctl.device.config import load_config
    from meetingctl.device.config.envfile import parse_env
    from meetingctl.device.onvif.conf import login_of, parse_conf
    from meetingctl.remote.onvif import inspect_camera
    from meetingctl.remote.smoke import DESCRIBE_S, Onvif
    from meetingctl.remote.visit import Privilege

    conf = parse_conf((await visit.answer(f"cat {ONVIF_CONF}", privilege=Privilege.wanted)).stdout)
    env = await visit.answer(f"cat {CONFIG_ENV}", privilege=Privilege.wanted)
    login = login_of(load_config(parse_env(env.stdout)).config, conf)
    user, password = (login.user, login.password) if login else ("", Secret(""))

    def ask(host: str, port: int) -> str:
        facts = inspect_camera(host, port, user, password, timeout_s=DESCRIBE_S)
        return f"{facts['model']} {facts['firmware']}, profiles {', '.join(facts['profiles'])}"

    return Onvif(conf.port, ask) if conf.enabled else None


def _show(run: Invocation, reports: Sequence[Report]) -> None:
    words = {True: "ok", False: "failed", None: "skipped"}
    rows = [{**row, "result": words[row["ok"]]} for row in rows_of(reports, "checks")]
    if rows:
        run.out.rows(rows, ("target", "check", "result", "detail"), empty="")
