"""The `[[notify]]` entries: to whom messages go, and which. An error in an entry disables that entry. Pure."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from ..auth.signing import secret_bytes
from .reader import Entry, quoted
from .server import normal_url

NTFY, WEBHOOK, APPRISE = KINDS = ("ntfy", "webhook", "apprise")
VERDICT, OUTCOME, FAILED, READY, DRILL, REPORT = EVENTS = ("verdict", "outcome", "failed", "ready", "drill", "report")
_TOPIC = re.compile(r"[-_A-Za-z0-9]{1,64}", re.ASCII)
_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)", re.ASCII)


@dataclass(frozen=True)
class Recipient:
    """One entry.

    `name` is its place in the file, for people. `url` is that of the server, of the webhook or of Apprise, and can be a
    secret; `secret` is the token of ntfy or the webhook's signing key. An empty `vms` means all. `quiet` are two
    minutes of the day. `guest_text`: a message may have words of the guest. An empty `ca_file` means the
    system's authorities.
    """

    name: str
    to: str
    url: str = field(repr=False)
    topic: str = field(default="", repr=False)
    secret: str = field(default="", repr=False)
    on: tuple[str, ...] = EVENTS
    vms: tuple[str, ...] = ()
    quiet: tuple[int, int] | None = None
    guest_text: bool = False
    before_answer: bool = False
    ca_file: str = ""

    def wants(self, event: str, vm: str) -> bool:
        """Tell whether this receiver wants messages about an event; a message about no VM has an empty `vm`."""
        return event in self.on and (not vm or not self.vms or vm in self.vms)

    def is_quiet(self, minute: int) -> bool:
        """Tell whether a minute of the day is in this receiver's quiet hours, which may begin before midnight."""
        if self.quiet is None:
            return False
        begin, end = self.quiet
        return begin <= minute < end if begin <= end else not end <= minute < begin


def read_receivers(top: Entry, vms: Iterable[str]) -> tuple[Recipient, ...]:
    """Return the entries without a fault; `vms` are all VMs in the file."""
    known = tuple(vms)
    found = [_receiver(entry, number, known) for number, entry in enumerate(top.get_list("notify"))]
    return tuple(receiver for receiver in found if receiver)


def _receiver(entry: Entry, number: int, known: tuple[str, ...]) -> Recipient | None:
    if entry.is_faulty:
        return None
    to, topic, secret = entry.get_str("to"), "", ""
    if to not in KINDS:
        entry.problem("to", f"is not a kind of receiver: {quoted(to)}", f"use one of {', '.join(KINDS)}")
        return None
    urls = entry.secrets("url", f"write the URL for {to} in url, or in a file that url_file names")
    url = urls[0][1] if urls else ""
    if url and to != APPRISE and normal_url(url) is None:
        entry.problem("url", "is not an http or https address without a query", 'like "https://ntfy.example.org"')
    ca_file = entry.get_str("ca_file") if to != APPRISE else ""
    if ca_file and not ca_file.startswith("/"):
        entry.problem("ca_file", "is not an absolute path", 'write it like "/etc/ssl/certs/ours.pem"')
    if to == NTFY:
        topic = entry.get_str("topic")
        if not _TOPIC.fullmatch(topic):
            entry.problem("topic", "is not a topic of ntfy", "use letters, digits, - and _, 64 at most")
        secret = entry.secrets("token", "")[0][1] if entry.has("token", "token_file") else ""
        if not (secret.isascii() and secret.isprintable()):
            entry.problem("token", "has a character that no token has", "write the token of ntfy alone")
    if to == WEBHOOK:
        secrets = entry.secrets("secret", "make one: openssl rand -base64 32, after whsec_")
        secret = secrets[0][1] if secrets else ""
        try:
            secret_bytes(secret)
        except ValueError as error:
            if secret:
                entry.problem("secret", str(error), "make one: openssl rand -base64 32, after whsec_")
    on = entry.get_choices("on", EVENTS) if entry.has("on") else EVENTS
    names = entry.get_strs("vms")
    for name in names:
        if name not in known:
            entry.problem("vms", f"is not a VM: {quoted(name)}", f"use {' or '.join(known)}")
    quiet = _quiet(entry)
    flags = {name: entry.get_flag(name) for name in ("guest_text", "before_answer")}
    entry.report_unknown()
    receiver = Recipient(f"notify[{number}]", to, url, topic, secret, on, names, quiet, **flags, ca_file=ca_file)
    return None if entry.is_faulty else receiver


def _quiet(entry: Entry) -> tuple[int, int] | None:
    text = entry.get_str("quiet")
    match = _HOURS.fullmatch(text)
    if match is None:
        if text:
            entry.problem("quiet", f"is not a time of day: {quoted(text)}", 'write it like quiet = "22:00-07:00"')
        return None
    hours = [int(part) for part in match.groups()]
    return hours[0] * 60 + hours[1], hours[2] * 60 + hours[3]
