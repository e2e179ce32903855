"""What a reload requires of a configuration, and what the log says of one that is rejected."""

from ..findings import ConfigError, as_json, error
from .model import Config


def check_change(used: Config, new: Config) -> None:
    """Raise ConfigError for a configuration that may not take the place of the one in use.

    A host that is in use would be disabled, and a connection that works is not given up. Or the directory of callers is
    gone: its volume may be missing, and no caller is to lose its rights by that.
    """
    if any(name in used.hosts for name in new.hosts_off):
        raise ConfigError(list(new.problems))
    if used.has_caller_directory and not new.has_caller_directory:
        hint = "put it back, and reload; if no caller is to have a file there, mkdir callers.d"
        raise ConfigError([error("callers.d", "file-missing", "is no longer beside the configuration", hint)])


def describe_rejection(fault: Exception) -> list[dict[str, str]]:
    """Return the problems for which a configuration is rejected, as the log lists them."""
    sentence = f"can't be read: {fault or type(fault).__name__}"
    problem = error("(file)", "file-not-readable", sentence, "mend it and reload (SIGHUP)")
    return as_json(fault.problems if isinstance(fault, ConfigError) else [problem])
