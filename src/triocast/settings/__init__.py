"""What an operator can set, where it was set, and what is wrong with it.

The only reader of the environment and of configuration files.
"""

from triocast.settings.loading import LoadedSettings, load_settings
from triocast.settings.model import SETTINGS, Setting, Settings, check_bind
from triocast.settings.problems import Problem, SettingsError

__all__ = [
    "SETTINGS",
    "LoadedSettings",
    "Problem",
    "Setting",
    "Settings",
    "SettingsError",
    "check_bind",
    "load_settings",
]
