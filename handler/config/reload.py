"""What a reload requires of a configuration, and what the log says of one that is rejected."""

from .model import Config
from .problems import ConfigError, Problem, list_problems


def keep_hosts(used: Config, new: Config) -> None:
    """Raise ConfigError when a host that is in use would be off: a connection that works is not given up."""
    if any(name in used.hosts for name in new.hosts_off):
        raise ConfigError(list(new.problems))


def describe_rejection(error: Exception) -> list[dict[str, str]]:
    """Return the problems for which a configuration is rejected, as the log lists them."""
    problem = Problem("(file)", f"can't be read: {error or type(error).__name__}", "mend it and reload (SIGHUP)")
    return list_problems(error.problems if isinstance(error, ConfigError) else [problem])
