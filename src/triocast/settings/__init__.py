"""What an operator can set, where it was set, and what is wrong with it.

The only reader of the environment and of configuration files.
"""

from triocast.settings.loading import LoadedSettings, load_settings
from triocast.settings.model import SETTINGS, Settings, check_bind
from triocast.settings.namespaces import (
    DISCONNECT,
    DROP,
    LATEST,
    NAMESPACE_OPTIONS,
    Namespace,
    Namespaces,
)
from triocast.settings.problems import Problem, SettingsError
from triocast.settings.setting import Setting

__all__ = [
    "DISCONNECT",
    "DROP",
    "LATEST",
    "NAMESPACE_OPTIONS",
    "SETTINGS",
    "LoadedSettings",
    "Namespace",
    "Namespaces",
    "Problem",
    "Setting",
    "Settings",
    "SettingsError",
    "check_bind",
    "load_settings",
]
