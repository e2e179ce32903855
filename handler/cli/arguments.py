"""The command-line arguments of each command that has some."""

import argparse

from ..agents.pve.words import ANYWAY
from ..base.verbs import VERBS
from . import bugreport, call, chat, check, demo, drill, init, report
from .output import suggestion

# The states of the demo's VM. `handler/demo/proxmox/world.py` creates them, but only the command `demo` loads that
# file.
SCENARIOS = (
    *("guest-panicked", "guest-hung", "idle", "healthy", "paused", "io-error", "disk-frozen", "qemu-wedged"),
    *("stopped", "stopped-locked"),
)


def add_demo(parser: argparse.ArgumentParser) -> None:
    """Describe `demo`."""
    parser.add_argument("--scenario", choices=SCENARIOS, default=SCENARIOS[0], help="the fault that the VM has")
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--no-chat", action="store_true", help="run without claude and the scripted model")
    model.add_argument(
        "--real-model",
        action="store_true",
        help="use the real model with your credential from the environment, which costs money",
    )
    parser.set_defaults(run=demo.demo)


def add_init(parser: argparse.ArgumentParser) -> None:
    """Describe `init`."""
    parser.description = (
        "Write a configuration, the session secret, an operator's signing key and an SSH key pair, and print the "
        "next steps. It writes all files or none, and overwrites nothing. In a terminal, it asks for what you leave "
        "out. If root runs it, the handler's account can read the files."
    )
    where = f"the directory (default: {init.ROOTS_DIRECTORY} for root, ~/.config/breakglass for others)"
    parser.add_argument("directory", nargs="?", metavar="DIR", help=where)
    parser.add_argument("--url", help="the URL at which people reach this handler, like https://rescue.example.org/")
    parser.add_argument(
        "--host", action="append", metavar="NAME=ADDRESS", help="a Proxmox host, like pve1=192.0.2.10; repeatable"
    )
    parser.add_argument(
        "--host-key",
        action="append",
        metavar="NAME=LINE",
        help="the host's public key, or the word any to pin it later; give one for each --host",
    )
    parser.add_argument(
        "--vm",
        action="append",
        metavar="NAME=NUMBER[@HOST,HOST]",
        help="a VM and where it may run, like devvm=102@pve1; repeatable",
    )
    parser.add_argument(
        "--operator", metavar="NAME", help="your name: the signing key is yours, and the hosts record the name"
    )
    parser.add_argument(
        "--user", metavar="NAME", help=f"the handler's account, if root runs this (default: {init.ACCOUNT})"
    )
    parser.set_defaults(run=init.init)


def _add_user(parser: argparse.ArgumentParser) -> None:
    what = "the handler's account to run as, if root runs this (default: the group of the configuration file)"
    parser.add_argument("--user", metavar="NAME", help=what)


def add_check(parser: argparse.ArgumentParser) -> None:
    """Describe `check`."""
    parser.description = (
        "Check a configuration with the rules of a real start, as the handler's user, but start nothing. "
        "The exit code is 2 if there is a problem; a warning doesn't change it."
    )
    parser.add_argument("file", nargs="?", metavar="FILE", help="the configuration (default: BREAKGLASS_CONFIG)")
    parser.add_argument("--json", action="store_true", help="print one line of JSON, with or without problems")
    _add_user(parser)
    parser.set_defaults(run=check.check)


def add_doctor(parser: argparse.ArgumentParser) -> None:
    """Describe `doctor`."""
    parser.description = (
        "Look at the configuration, the keys, the hosts, the handler and chat, and print one line for each finding: "
        "ok, warning or error, a sentence, and the fix. It changes no VM's power. The exit code is 0 if all is well, "
        "1 after a warning, and 2 after an error. It asks the handler (BREAKGLASS_URL, or server.url) as a caller: "
        "with the signing key in BREAKGLASS_SECRET_FILE, or as the caller that the configuration calls doctor."
    )
    parser.add_argument("--vm", metavar="NAME", help="look at this VM and its hosts only")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument(
        "--sample",
        action="append",
        metavar="SOURCE=FILE",
        help="a notification that a monitoring system has sent: see which [[alerts]] entries match it; repeatable",
    )
    parser.add_argument(
        "--ping",
        metavar="FILE",
        help="after a run without errors, request the URL in this file, which is how Healthchecks is pinged",
    )
    parser.add_argument("--ping-failures", action="store_true", help="with --ping: after an error, request URL/fail")
    _add_user(parser)
    parser.set_defaults(run=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    from .doctor import doctor  # imported here, so that the other commands start without it

    return doctor(arguments)


def add_drill(parser: argparse.ArgumentParser) -> None:
    """Describe `drill`."""
    parser.description = (
        "Do a real rescue of a VM that has drill = true: send a signed alert, wait for its evidence, power-cycle the "
        "VM, and prove that this happened. Unsaved work in the VM is lost. Its host then records that it is proven. "
        "It needs the signing key of a caller that may do status, forensics, history and cycle."
    )
    parser.add_argument("--vm", required=True, metavar="NAME", help="the VM, which needs drill = true")
    parser.add_argument(
        "--yes", action="store_true", help="don't ask before the power cycle (required if there is no terminal)"
    )
    parser.add_argument("--id", metavar="ID", help="continue this earlier drill; it acts at most once")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.set_defaults(run=drill.drill)


def _verb(text: str) -> str:
    if text in VERBS:
        return text
    more = f"use {', '.join(VERBS)}"
    raise argparse.ArgumentTypeError(f'there is no verb "{text}"; {suggestion(text, VERBS, more)}')


def add_call(parser: argparse.ArgumentParser, short: str = "") -> None:
    """Describe `call`, or the command that is short for it with this verb."""
    if not short:
        parser.add_argument("verb", metavar="VERB", type=_verb, choices=tuple(VERBS), help=", ".join(VERBS))
    parser.set_defaults(run=call.call, **({"verb": short} if short else {}), is_short=bool(short))
    is_needed = bool(short) and VERBS[short].mutating
    parser.add_argument(
        "named", nargs="?", metavar="VM", help="the VM" if is_needed else "the VM; needed only if there are several"
    )
    parser.add_argument("--id", help="repeat the earlier request that had this id; it acts at most once")
    parser.add_argument("--vm", action="append", default=[], help="the VM, as another way to name it")
    parser.add_argument("--reason", help="the reason, which the host records")
    if not short or VERBS[short].mutating:
        parser.add_argument("--if-state", metavar="STATE", help="run only if the VM is in this state")
        parser.add_argument(
            "--if-last", metavar="ID", help="run only if this job is still the newest (none: only if there is no job)"
        )
    if short in ("", "history"):
        parser.add_argument("--job", metavar="ID", help="show this job" if short else "with history: show this job")
    if short in ("", "reset", "cycle"):
        what = "override the host's refusal that has this code"
        parser.add_argument("--anyway", choices=tuple(ANYWAY), help=what if short else f"with reset or cycle: {what}")
    parser.add_argument("--json", action="store_true", help="print only the answer object, as one line")
    parser.add_argument("--quiet", action="store_true", help="show no stages, and don't wait for the guest")
    parser.add_argument(
        "--full", action="store_true", help="print everything that the host read, and not only the verdict"
    )


def add_chat(parser: argparse.ArgumentParser) -> None:
    """Describe `chat`."""
    parser.add_argument("--vm", help="the VM; needed only if there are several")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--list", action="store_true", help="list your conversations of the last 30 days, newest first, and exit"
    )
    parser.add_argument("--json", action="store_true", help="with --list: print one line of JSON")
    which.add_argument(
        "--resume",
        nargs="?",
        const=chat.NEWEST,
        metavar="NUMBER",
        help="continue conversation NUMBER of the list; without NUMBER, the newest one",
    )
    which.add_argument(
        "--sandbox", action="store_true", help="test whether this machine can isolate claude, before you install claude"
    )
    user = f"with --sandbox: the handler's account, if root runs this (default: {init.ACCOUNT})"
    parser.add_argument("--user", metavar="NAME", default=init.ACCOUNT, help=user)
    parser.set_defaults(run=chat.chat)


def add_report(parser: argparse.ArgumentParser) -> None:
    """Describe `report`."""
    parser.description = (
        "Print each alert, verdict and verb of the last hours, with who did it and why, and what is still open. The "
        "hosts remember it, so every handler can tell (BREAKGLASS_URL, BREAKGLASS_SECRET_FILE)."
    )
    parser.add_argument("--vm", metavar="NAME", help="only this VM (default: each VM that the caller may see)")
    parser.add_argument("--since", metavar="HOURS", default="8h", help="how far to look back, like 8h (72h at most)")
    parser.add_argument("--json", action="store_true", help="print only the answer object, as one line")
    what = "print one HTML file with the pictures, to print or to send"
    parser.add_argument("--html", dest="form", action="store_const", const="html", default="markdown", help=what)
    parser.add_argument(
        "--notify",
        action="store_true",
        help="send the receivers of [[notify]] one message instead (BREAKGLASS_CONFIG), or none after a quiet time",
    )
    parser.set_defaults(run=report.report)


def add_log(parser: argparse.ArgumentParser) -> None:
    """Describe `log`."""
    parser.description = (
        "Print one line for each job of the last hours on each VM that the caller may see, the newest last: when it "
        "began, the VM, the verb, who sent it, and how it ended. The reason is below the line. The hosts remember the "
        "jobs, so every handler can tell (BREAKGLASS_URL, BREAKGLASS_SECRET_FILE)."
    )
    parser.add_argument("--vm", metavar="NAME", help="only this VM (default: each VM that the caller may see)")
    parser.add_argument("--since", metavar="HOURS", default="12h", help="how far to look back, like 12h (72h at most)")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.set_defaults(run=report.log, form="rows")


def add_bugreport(parser: argparse.ArgumentParser) -> None:
    """Describe `bugreport`."""
    parser.description = (
        "Write one new file that only you can read: versions, doctor's report, /health, and the configuration without "
        "its keys, tokens, passwords and texts. It names hosts, VMs, callers and addresses. Nothing is sent."
    )
    parser.add_argument("file", nargs="?", metavar="FILE", default=bugreport.FILE, help=f"default: {bugreport.FILE}")
    parser.set_defaults(run=bugreport.bugreport)
