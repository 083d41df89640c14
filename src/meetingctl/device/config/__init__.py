"""config.env of a device: one table of keys, a lossless file, a typed configuration."""

from meetingctl.device.config.keys import DeviceConfig, Key, Reload, all_keys, find_key
from meetingctl.device.config.load import Loaded, Problem, changed_keys, load_config, shown_value
from meetingctl.device.config.store import change_config, plan_changes, read_config, read_env, remove_leftovers

__all__ = [
    "DeviceConfig",
    "Key",
    "Loaded",
    "Problem",
    "Reload",
    "all_keys",
    "change_config",
    "changed_keys",
    "find_key",
    "load_config",
    "plan_changes",
    "read_config",
    "read_env",
    "remove_leftovers",
    "shown_value",
]
