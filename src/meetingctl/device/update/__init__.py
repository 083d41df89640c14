"""Updates of this device from a package: releases side by side, one link that names the current one, and the way back.

Only the standard library, core and the device side are needed, so that this also runs straight from the wheel inside
a package: `PYTHONPATH=meetingctl.whl python3 -m meetingctl.device.update apply FILE`.
"""
