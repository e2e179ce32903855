"""Findings: the one format in which every part reports that something is wrong or in order. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from .times import rfc3339

OK, WARNING, ERROR = "ok", "warning", "error"


@dataclass(frozen=True)
class Finding:
    """One finding: its severity, its place, a sentence, and the fix.

    `place` is the checked part, such as `host pve1`, or the setting, such as `hosts.pve1.key_file`. After a setting,
    the sentence continues from its name. `code` is stable, for programs and tests, such as `key-not-accepted`. The part
    that reports the finding sets the code, so the wording can change while the code stays.
    """

    level: str
    place: str
    code: str
    sentence: str
    fix: str = ""

    def __str__(self) -> str:
        return _on_one_line(f"{self.level}: {self.place}: {self.sentence}" + (f" / {self.fix}" if self.fix else ""))

    @property
    def text(self) -> str:
        """The sentence and the fix, for an answer that consists of texts."""
        return _on_one_line(f"{self.sentence}; {self.fix}")


def _on_one_line(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)  # a name in the text can contain a line break


def as_json(findings: Iterable[Finding]) -> list[dict[str, str]]:
    """Return findings as JSON objects, for `--json` and the log."""
    return [asdict(each) for each in findings]


def ok(place: str, code: str, sentence: str) -> Finding:
    """Return a finding that needs no action."""
    return Finding(OK, place, code, sentence)


def warning(place: str, code: str, sentence: str, fix: str) -> Finding:
    """Return a finding for a problem that still leaves a rescue possible."""
    return Finding(WARNING, place, code, sentence, fix)


def error(place: str, code: str, sentence: str, fix: str) -> Finding:
    """Return a finding for a problem that prevents a rescue, or a configured part of one."""
    return Finding(ERROR, place, code, sentence, fix)


class ConfigError(Exception):
    """Raised if the configuration, or a file that it names, can't be used. Contains all problems found."""

    def __init__(self, problems: list[Finding]) -> None:
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        lines = ((f"{each.place}: {each.sentence}", f"    {each.fix}") for each in self.problems)
        return "\n".join(_on_one_line(line) for pair in lines for line in pair)


# The meaning of each state of a host, and its fix. {0} is the host's name.
STATES: Mapping[str, tuple[str, str]] = {
    "agent-silent": (
        "the connection is up, but no host agent answers on it",
        "run breakglass host upgrade {0}; then compare the key's line on the host with what "
        "breakglass host install-commands prints",
    ),
    "wrong-node": ("the connection leads to another node", "correct hosts.{0}.ssh or hosts.{0}.node, and reload"),
    "not-allowed": ("the power key does not serve this VM", "on the host, as root: breakglass-pve allow {1}"),
    "elsewhere": ("no host of this VM has it", "find the VM in Proxmox, correct vms.NAME.hosts or vmid, and reload"),
    "read-only-key": (
        "the configured power key is a read-only key",
        "name the power key in hosts.{0}.key_file, and reload",
    ),
    "name-not-found": ("the host's name has no address", "write an address into hosts.{0}.ssh, and reload"),
    "connection-refused": ("the connection was refused", "at the host's console: systemctl start ssh"),
    "no-route": ("there is no route to the host", "check the host's power and network"),
    "timeout": ("the host does not answer", "look at the host's console or IPMI"),
    "turned-away": (
        "sshd ends the connection before the login",
        "exempt the handler's address from sshd's penalties: run breakglass host install-commands --host {0} "
        "--from ADDRESS, and run what it prints on the host, as root",
    ),
    "key-not-accepted": (
        "the login failed",
        "run breakglass host install-commands --host {0}, and run what it prints on the host, as root",
    ),
    "host-key-differs": (
        "the host's key differs from the pinned host key",
        "read ssh_host_ed25519_key.pub at the host's console, pin it as hosts.{0}.host_key, and reload",
    ),
    "lost": ("the connection was lost and is being opened again", "wait some seconds; then check the host"),
    "disabled": (
        "the entry in breakglass.toml has an error",
        "run breakglass check; correct the errors that it names, and reload",
    ),
}


def fix_of(state: str, host: str) -> str:
    """Return the fix for a host in one of the host's states. States of a VM have no fix here."""
    return STATES[state][1].format(host, "")


def say_silent(host: str) -> tuple[str, str, str]:
    """Return the code, the sentence and the fix for a verb that only reads, whose host agent ended without a word."""
    return "agent-silent", f"the host agent on {host} said nothing; nothing was changed", fix_of("agent-silent", host)


def say_trying(host: str, state: str, since: float | None) -> dict[str, object]:
    """Return the field that tells a stream's reader that this host is being tried; none for a host that answers."""
    told = f"{host}: {state}{f' since {rfc3339(since)}' if since else ''}; trying"
    return {} if state in ("answering", "agent-outdated") else {"trying": told}
