"""The `breakglass` command. The only place that prints.

Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 unreached, 4 unknown.
"""

import argparse
import base64
import json
import os
import re
import secrets
import signal
import stat
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from .config import parse
from .errors import ConfigError, Problem
from .examples import EXAMPLES, example
from .processes import PR_SET_DUMPABLE, prctl
from .settings import Config, is_caller_name
from .signing import BEARER, GRAFANA, ID, secret_bytes
from .verbs import VERBS

DONE, FAILED, USAGE, UNREACHED, UNKNOWN = 0, 1, 2, 3, 4
DEFAULT_URL = "http://127.0.0.1:8080"
_EXIT = {"done": DONE, "unreached": UNREACHED, "unknown": UNKNOWN, "running": UNKNOWN}

# The states that the demo can put its VM into; `handler/demo/world.py` has them, and is loaded by the demo alone.
SCENARIOS = (
    *("idle", "healthy", "paused", "guest-panicked", "io-error", "disk-frozen", "qemu-wedged"),
    *("stopped", "stopped-locked"),
)

# What a terminal would obey or a reader be fooled by: C0 and C1 controls but newline and tab, and bidi overrides.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """Return `text` with control and bidi characters written out."""
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def say(text: str) -> None:
    print(visible(text), flush=True)


def complain(message: str, hint: str = "") -> None:
    lines = [f"breakglass: {message}"] * bool(message) + [f"    {hint}"] * bool(hint)
    if lines:
        print(visible("\n".join(lines)), file=sys.stderr)


def load_config(path: Path, environment: Mapping[str, str]) -> Config:
    """Return the usable part of the configuration file; raise ConfigError when that is too little."""
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError([Problem(str(path), f"can't be read: {error}", "name it in BREAKGLASS_CONFIG")]) from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO) and environment.get("BREAKGLASS_INSECURE_CONFIG_MODE") != "1":
        raise ConfigError([Problem(str(path), "can be read by others than its owner", f"chmod 600 {path}")])
    files = [str(path)]

    def read(name: str) -> str:
        files.append(name)
        return Path(name).read_text(encoding="utf-8")

    return replace(parse(text, read), files=tuple(files))


def serve(arguments: argparse.Namespace) -> int:
    """Run the handler until it is told to stop."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})  # it waits until the server can hear it
    prctl(PR_SET_DUMPABLE, 0)  # before there is a secret in memory: nobody else of our user reads it there
    path = Path(os.environ.get("BREAKGLASS_CONFIG", "breakglass.toml"))
    host, port = os.environ.get("HOST", "127.0.0.1"), os.environ.get("PORT", "8080")
    try:
        config = load_config(path, os.environ)
    except ConfigError as error:
        complain(f"the configuration can't be used\n{error}")
        return USAGE
    if config.problems:
        complain("the configuration has faults; what they concern is off\n" + "\n".join(map(str, config.problems)))
    if not port.isdigit():
        complain(f'PORT is not a number: "{port}"')
        return USAGE
    from . import audit  # the other commands start without a server
    from .server import make_server

    signal.signal(signal.SIGTERM, _exit_quietly)
    log = audit.Writer()
    log.start()
    audit.note("start", address=f"{host}:{port}", **audit.in_force(config))
    try:
        make_server(config, lambda: load_config(path, os.environ), host, int(port)).run()
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a reload that comes too late is no reason to die of it
        log.stop()
    return DONE


def _exit_quietly(sig: int, frame: object) -> None:
    """End by way of the `finally` clauses: the server, once it has ended, raises again the signal that ended it."""
    sys.exit(DONE)


def keys_new(arguments: argparse.Namespace) -> int:
    """Print a new caller's entry; the secret is shown this once."""
    if not is_caller_name(arguments.name):
        complain(f'not a usable name: "{arguments.name}"', "letters, digits, @ . _ - and at most 64 of them")
        return USAGE
    key, secret, allow = _new_key(arguments.way)
    say(f"[callers.{json.dumps(arguments.name)}]\n{key} = {json.dumps(secret)}\nallow  = {json.dumps(allow)}")
    print(
        "# shown once: add it to the configuration, give it to its caller, reload the handler (SIGHUP)", file=sys.stderr
    )
    return DONE


def _new_key(way: str) -> tuple[str, str, list[str]]:
    """Return the entry's key, a new secret for it, and what such a caller is usually allowed."""
    if way == BEARER:
        return "token", f"bgt_{secrets.token_urlsafe(32)}", ["forensics"]
    if way == GRAFANA:
        return "grafana_secret", secrets.token_urlsafe(32), ["forensics"]
    signing = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
    return "secret", signing, ["status", "forensics", "history"]


def alert_example(arguments: argparse.Namespace) -> int:
    """Print what a sender's own configuration needs to send its alerts to this handler."""
    path = Path(os.environ.get("BREAKGLASS_CONFIG", "breakglass.toml"))
    try:
        rules = load_config(path, os.environ).alerts
    except ConfigError as error:
        complain(f"the configuration can't be used\n{error}")
        return USAGE
    if not any(rule.source == arguments.source for rule in rules):
        complain(f"no [[alerts]] entry has source = {json.dumps(arguments.source)} yet", "see docs/alerts.md")
    say(example(arguments.source, arguments.url, rules).rstrip("\n"))
    return DONE


def caller_key(environment: Mapping[str, str]) -> bytes:
    """Return the signing key from BREAKGLASS_SECRET_FILE or BREAKGLASS_SECRET; never from the command line."""
    file = environment.get("BREAKGLASS_SECRET_FILE")
    secret = Path(file).read_text(encoding="ascii").strip() if file else environment.get("BREAKGLASS_SECRET", "")
    return secret_bytes(secret)


def sign(arguments: argparse.Namespace) -> int:
    """Print the headers that sign the body on standard input, for `curl -H @-`."""
    from .client import Signer, new_id

    msg_id = arguments.id or new_id()
    if not ID.fullmatch(msg_id):
        complain(f'not an id: "{msg_id}"', "8 to 64 of A-Z a-z 0-9 _ -")
        return USAGE
    headers = Signer("", caller_key(os.environ)).headers(msg_id, sys.stdin.buffer.read())
    for name, value in headers.items():
        say(f"{name}: {value}")
    return DONE


def call(arguments: argparse.Namespace) -> int:
    """Run a verb and show what it says; when its outcome is not known, say how to ask for the same one again."""
    from .client import NoAnswer, Signer, Told, new_id
    from .client import call as send

    wanted = {name: getattr(arguments, name) for name in ("verb", "vm", "reason", "if_state", "if_last", "job")}
    body = json.dumps({name: value for name, value in wanted.items() if value}).encode()
    url = os.environ.get("BREAKGLASS_URL", DEFAULT_URL)
    msg_id = arguments.id or new_id()
    if not ID.fullmatch(msg_id):
        complain(f'not an id: "{msg_id}"', "8 to 64 of A-Z a-z 0-9 _ -")
        return USAGE
    try:
        result = send(Signer(url, caller_key(os.environ)), msg_id, body, _show)
    except KeyboardInterrupt:
        complain(f"you stopped waiting; {arguments.verb} goes on where it is", _again(arguments, msg_id))
        return UNKNOWN
    except Told as told:
        complain(str(told), told.hint)
        return FAILED
    except NoAnswer as lost:
        if not lost.sent:
            complain(f"{url}: {lost}; nothing was sent", "by hand: see docs/runbook.md")
            return UNREACHED
        complain(f"{url}: {lost}; {arguments.verb} may have run", _again(arguments, msg_id))
        return UNKNOWN
    code = _show_result(result)
    if code == UNKNOWN:
        complain(f"the outcome of {arguments.verb} is not known yet", _again(arguments, msg_id))
    return code


def _again(arguments: argparse.Namespace, msg_id: str) -> str:
    """Return the command that asks for the same action: a new id would be a second one."""
    vm = f" --vm {arguments.vm}" if arguments.vm else ""
    return f"the same again, which acts once: breakglass call {arguments.verb}{vm} --id {msg_id}"


def _show(message: Mapping[str, object]) -> None:
    if message["type"] == "output":
        stream = sys.stdout if message["stream"] == "stdout" else sys.stderr
        print(visible(str(message["text"])), end="", file=stream, flush=True)


def _show_result(result: Mapping[str, object]) -> int:
    outcome = str(result["outcome"])
    verdict = result.get("verdict")
    if isinstance(verdict, dict):
        said = str(verdict["sentence"]) in str(result.get("stderr"))  # a job's own output was shown as it came
        evidence = "\n    ".join(_texts(verdict.get("evidence")))
        complain("" if said and result["reached"] else str(verdict["sentence"]), evidence)
    job = result.get("job")
    if isinstance(job, dict):
        print(visible(str(job.get("output", ""))), end="")
    elif "job" in result:
        complain("no such job is known on the host")
    for warning in _texts(result.get("warnings")):
        complain(f"warning: {warning}")
    say(f"{result['verb']} {result['vm']}: {outcome}, {result['state']} (id {result['id']})")
    if outcome not in ("done", "rejected", "busy", "refused"):
        for line in _texts(result.get("by_hand")):
            complain(f"by hand: {line}")
    return _EXIT.get(outcome, FAILED)


def _texts(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []


def chat(arguments: argparse.Namespace) -> int:
    """Talk with claude about a VM; what it proposes runs only when the answer is y."""
    from .client import Signer
    from .conversation import Conversation
    from .terminal import Terminal, memory, recall, remember

    path = memory(os.environ)
    signer = Signer(os.environ.get("BREAKGLASS_URL", "http://127.0.0.1:8080"), caller_key(os.environ))
    conversation = Conversation(signer, arguments.vm or "", recall(path) if arguments.resume else "")

    def approve(verb: str, vm: str, job: str, why: str) -> str:
        asked = argparse.Namespace(verb=verb, vm=vm, reason=why, id=job, if_state="", if_last="", job="")
        return _OUTCOMES.get(call(asked), "It failed.")

    def show(text: str) -> None:
        print(visible(text), end="", flush=True)

    outcome = Terminal(conversation, input, show, complain, approve, lambda token: remember(path, token)).run()
    return _EXIT.get(outcome, FAILED)


_OUTCOMES = {DONE: "It ran and is done.", UNREACHED: "It was not sent.", UNKNOWN: "Whether it ran is not known."}


def host_bundle(arguments: argparse.Namespace) -> int:
    """Write the host agent as one file."""
    from agents.bundle import bundle

    if arguments.file is None:
        print(bundle(), end="")
        return DONE
    path = Path(arguments.file)
    path.write_text(bundle(), encoding="utf-8")
    path.chmod(0o755)
    return DONE


def host_install_commands(arguments: argparse.Namespace) -> int:
    """Print what to run on the Proxmox host for one VM; public keys only."""
    from .connecting import public_key
    from .install import Keys, agent_key, recipe

    path = Path(os.environ.get("BREAKGLASS_CONFIG", "breakglass.toml"))
    try:
        config = load_config(path, os.environ)
        vm = config.vms[_chosen_vm(list(config.vms), arguments.vm)]
        reading = agent_key(path.read_text(encoding="utf-8"), vm.name, lambda file: Path(file).read_text("utf-8"))
        keys = Keys(public_key(vm.key), public_key(reading) if reading else None)
        text = recipe(vm, keys, arguments.source)
    except ConfigError as error:
        complain(f"the configuration can't be used\n{error}")
        return USAGE
    except (OSError, ValueError) as error:
        complain(str(error), "nothing was printed; see docs/runbook.md")
        return USAGE
    print(text, end="")
    return DONE


def _chosen_vm(names: list[str], wanted: str | None) -> str:
    if wanted in names or (wanted is None and len(names) == 1):
        return wanted or names[0]
    said = "which VM?" if wanted is None else f'no such VM: "{wanted}";'
    raise ValueError(f"{said} --vm, one of {', '.join(names)}")


def demo(arguments: argparse.Namespace) -> int:
    """Run everything on this machine: an embedded Proxmox, the handler, the page."""
    from .demo.run import run

    return run(say, arguments.scenario, not arguments.no_chat)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="breakglass", description="Power verbs for a VM that has stopped answering.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    trying = commands.add_parser("demo", help="try it here: nothing but this machine is touched")
    trying.add_argument("--scenario", choices=SCENARIOS, default=SCENARIOS[0], help="what is wrong with the VM")
    trying.add_argument("--no-chat", action="store_true", help="without claude and the scripted model")
    trying.set_defaults(run=demo)
    commands.add_parser("serve", help="run the handler (BREAKGLASS_CONFIG, HOST, PORT)").set_defaults(run=serve)
    keys = commands.add_parser("keys", help="make a caller's key").add_subparsers(required=True, metavar="new")
    new = keys.add_parser("new", help="print a new caller's entry")
    new.add_argument("name")
    way = new.add_mutually_exclusive_group()
    way.add_argument("--bearer", dest="way", action="store_const", const=BEARER, help="a token, for what can't sign")
    way.add_argument("--grafana", dest="way", action="store_const", const=GRAFANA, help="Grafana's own signature")
    new.set_defaults(run=keys_new)
    signing = commands.add_parser("sign", help="print signing headers for the body on standard input")
    signing.add_argument("--id", help="sign this id again instead of a new one")
    signing.set_defaults(run=sign)
    _add_call(commands.add_parser("call", help="run a verb (BREAKGLASS_URL, BREAKGLASS_SECRET_FILE)"))
    exemplary = commands.add_parser("alert-example", help="print a monitoring system's configuration (BREAKGLASS_URL)")
    exemplary.add_argument("source", choices=EXAMPLES)
    exemplary.add_argument("--url", default=os.environ.get("BREAKGLASS_URL", DEFAULT_URL), help="of this handler")
    exemplary.set_defaults(run=alert_example)
    talking = commands.add_parser("chat", help="talk with claude about a VM (BREAKGLASS_URL, BREAKGLASS_SECRET_FILE)")
    talking.add_argument("--vm", help="which VM; may be left out when there is one")
    talking.add_argument("--resume", action="store_true", help="go on with the last conversation")
    talking.set_defaults(run=chat)
    host = commands.add_parser("host", help="the Proxmox host's side").add_subparsers(required=True, metavar="COMMAND")
    bundling = host.add_parser("bundle", help="write the host agent, to standard output without FILE")
    bundling.add_argument("file", nargs="?")
    bundling.set_defaults(run=host_bundle)
    installing = host.add_parser("install-commands", help="print what to run on the host, as root (BREAKGLASS_CONFIG)")
    installing.add_argument("--vm", help="which VM; may be left out when there is one")
    installing.add_argument("--from", dest="source", metavar="ADDRESS", help="the handler's, which sshd must not ban")
    installing.set_defaults(run=host_install_commands)
    return top


def _add_call(calling: argparse.ArgumentParser) -> None:
    calling.add_argument("verb", help=", ".join(VERBS))
    calling.add_argument("--id", help="ask again about this id: it acts once however often it is sent")
    calling.add_argument("--vm", help="which VM; may be left out when there is one")
    calling.add_argument("--reason", help="why, for the record")
    calling.add_argument("--if-state", help="run only if the host sees this state")
    calling.add_argument("--if-last", help="run only if this is still the newest job, or none")
    calling.add_argument("--job", help="with history: show this job")
    calling.set_defaults(run=call)


def main() -> int:
    """Run the command that the arguments name; return its exit code."""
    arguments = parser().parse_args()
    try:
        return int(arguments.run(arguments))
    except (OSError, ValueError) as error:
        complain(str(error), "is BREAKGLASS_SECRET_FILE or BREAKGLASS_SECRET set to a whsec_… secret?")
        return USAGE


if __name__ == "__main__":
    sys.exit(main())
