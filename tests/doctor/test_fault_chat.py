"""Faults of chat, seeded one by one: each is found, with its fix, and no credential is printed."""

import os
import pwd
import socket
import threading
from collections.abc import Callable

import pytest

from breakglass.chat.command import list_flags

from ..support import claude
from ..support.doctor import Fault, Setup, cases, check_fault
from ..support.hung import unserved_fuse
from ..support.model import Model
from ..support.model_proxy import Authority, answering, with_tls
from ..support.ports import reserve_port
from ..support.service import ACCOUNT, new_ssh_key

pytestmark = [pytest.mark.slow, pytest.mark.real("claude"), pytest.mark.real("bwrap")]

PLACES = ("chat",)
USER = pwd.getpwnam(ACCOUNT).pw_uid if ACCOUNT else os.geteuid()
HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDGSYqA2NpkYh9rLQ6MUqU1TNMSiCjZVLKXCNAjl3NmK"
SECRET = "sk-ant-the-real-one-0123456789"
MOVED = b"HTTP/1.1 301 Moved\r\nlocation: https://x.example\r\ncontent-length: 0\r\n\r\n"
_NO_CREDIT = b'{"type": "error", "error": {"message": "Your credit balance is too low"}}'
NO_CREDIT = b"HTTP/1.1 400 Bad Request\r\ncontent-length: %d\r\n\r\n%b" % (len(_NO_CREDIT), _NO_CREDIT)
VARIABLE = f"ANTHROPIC_API_KEY={SECRET}\n"
Seed = Callable[[Setup], object]


@pytest.fixture
def chatting(setup: Setup, model: Model) -> Setup:
    """A good configuration with chat."""
    model.listing = None
    setup.directory.chmod(0o755)
    setup.config["callers"]["operator"]["allow"].append("chat")
    setup.config["chat"] = {
        "command": str(claude.reachable(USER, setup.directory)),
        "base_url": model.url,
        "credential_file": setup.file("credential", VARIABLE),
    }
    setup.model = model
    return setup


def chat(**values: object) -> Seed:
    """Return a seed that changes [chat]; None takes a setting out."""

    def seed(setup: Setup) -> None:
        setup.config["chat"] |= values
        for name in [name for name, value in setup.config["chat"].items() if value is None]:
            del setup.config["chat"][name]

    return seed


def credential(text: str) -> Seed:
    return lambda setup: setup.file("credential", text)


def listing(failure: object) -> Seed:
    """Return a seed that makes the model's API fail."""

    def seed(setup: Setup) -> None:
        setup.model.listing = failure

    return seed


def fixed(answer: bytes) -> Seed:
    """Return a seed that puts another server in the API's place."""

    def seed(setup: Setup) -> None:
        server = setup.stack.enter_context(answering(answer))
        setup.config["chat"]["base_url"] = server.url

    return seed


def unknown_authority(setup: Setup) -> None:
    """Make the API show a certificate of an authority that this machine does not know."""
    context = Authority(setup.directory, "ours").context("localhost")
    port = setup.stack.enter_context(with_tls(setup.model, context))
    chat(base_url=f"https://localhost:{port}")(setup)


def without_tls(setup: Setup) -> None:
    chat(base_url=setup.model.url.replace("http://127.0.0.1", "https://localhost"))(setup)


def proxy_that_refuses(setup: Setup) -> None:
    server = setup.stack.enter_context(answering(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"))
    proxy = server.url.replace("://", "://user:s3cret-of-the-proxy@")
    chat(base_url="https://api.example", https_proxy=proxy)(setup)


def base_v1(setup: Setup) -> None:
    chat(base_url=f"{setup.model.url}/v1")(setup)


# --- claude ---


def program(text: str, mode: int = 0o755) -> Seed:
    """Return a seed with another program in claude's place."""

    def seed(setup: Setup) -> None:
        path = setup.directory / "program"
        path.write_text(text)
        path.chmod(mode)
        setup.config["chat"]["command"] = str(path)

    return seed


def printing(version: str, flags: list[str]) -> Seed:
    """Return a seed with a claude of another version."""
    return program(f"#!/bin/sh\ncase $1 in --version) echo '{version}';; --help) echo '{' '.join(flags)}';; esac\n")


# --- sessions.dir ---


def mounted(data: str) -> Seed:
    """Return a seed that has sessions.dir on its own file system."""
    return lambda setup: setup.mounts.append(("tmpfs", str(setup.directory / "sessions"), "tmpfs", data))


def of_another_user(setup: Setup) -> None:
    os.chown(setup.directory / "sessions", 54321, 54321)


def below_a_file(setup: Setup) -> None:
    setup.config["sessions"]["dir"] = setup.file("a-file", "") + "/chat"


def relative(setup: Setup) -> None:
    setup.config["sessions"]["dir"] = os.path.relpath(setup.config["sessions"]["dir"], "/")


def readable_by_all(setup: Setup) -> None:
    file = setup.directory / "sessions/chat.sqlite3"
    file.touch(0o644)
    os.chown(file, USER, USER)


# --- the system ---


def refused_sandbox(setup: Setup) -> None:
    """Make bubblewrap fail as it does if the kernel refuses namespaces."""
    fake = setup.directory / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create a new namespace' >&2\nexit 1\n")
    fake.chmod(0o755)
    setup.mounts.append((str(fake), "/usr/bin/bwrap", "", ""))


def no_sandbox(setup: Setup) -> None:
    """Mount a /usr/bin without bubblewrap over the machine's own."""
    layers = setup.directory / "layers"
    for name in ("upper", "work"):
        (layers / name).mkdir(parents=True)
    os.mknod(layers / "upper/bwrap", 0o020000, 0)  # overlayfs's mark for a name that is removed
    data = f"lowerdir=/usr/bin,upperdir={layers}/upper,workdir={layers}/work"
    setup.mounts.append(("overlay", "/usr/bin", "overlay", data))


def no_socket_for_turns(setup: Setup) -> None:
    setup.environment["BREAKGLASS_CHAT"] = str(setup.directory / "nowhere")


def one_who_hangs_up(setup: Setup) -> None:
    """Put a program in the place of the socket unit that ends without an answer."""
    path = setup.directory / "socket"
    listener = setup.stack.enter_context(socket.socket(socket.AF_UNIX))
    listener.bind(str(path))
    listener.listen()
    path.chmod(0o666)
    threading.Thread(target=lambda: listener.accept()[0].close(), daemon=True).start()
    setup.environment["BREAKGLASS_CHAT"] = str(path)


def guest(**more: str | None) -> Seed:
    """Return a seed with a guest that claude may log in to, with one thing wrong."""

    def seed(setup: Setup) -> None:
        good = {
            "guest": "claude@192.0.2.20",
            "guest_host_key": HOST_KEY,
            "guest_key_file": setup.file("guest", new_ssh_key()),
        }
        given = {name: value for name, value in (good | more).items() if value is not None}
        setup.config["vms"]["devvm"] |= given

    return seed


def no_ssh(setup: Setup) -> None:
    guest()(setup)
    setup.environment["PATH"] = str(setup.directory)


def no_talker(setup: Setup) -> None:
    setup.config["callers"]["operator"]["allow"].remove("chat")


FAULTS = [
    # settings
    Fault("an unknown setting", chat(model="opus"), "unknown-setting", "take it out"),
    Fault("a setting of the wrong type", chat(max_turns_at_once="3"), "chat-setting", "without quotes"),
    Fault(
        "a secret for claude's environment", chat(env={"ANTHROPIC_API_KEY": SECRET}), "chat-setting", "credential_file"
    ),
    Fault("no caller who may chat", no_talker, "chat-without-caller", '"chat"'),
    Fault("no key to a guest", guest(guest_key_file=None), "guest-without-key", "guest_key_file"),
    Fault("claude as root in a guest", guest(guest="root@192.0.2.20"), "guest-root", "claude@"),
    Fault("a guest whose key is not checked", guest(guest_host_key="any"), "guest-key-not-checked", "ssh-keyscan"),
    Fault("no ssh", no_ssh, "ssh-missing", "openssh-client"),
    # the credential
    Fault("no credential", chat(credential_file=None), "credential", "name a file"),
    Fault("an empty credential", credential(""), "file-empty", "write"),
    Fault("a credential's file that is gone", chat(credential_file="/nowhere"), "file-missing", "ls -l"),
    Fault(
        "a credential under another name", credential(f"OPENAI_API_KEY={SECRET}\n"), "credential", "ANTHROPIC_API_KEY"
    ),
    Fault("a credential with spaces", credential(f"ANTHROPIC_API_KEY = {SECRET}\n"), "credential", "NAME=VALUE"),
    Fault("a credential in quotes", credential(f'ANTHROPIC_API_KEY="{SECRET}"\n'), "credential", "without quotes"),
    Fault("two credentials", credential(VARIABLE + VARIABLE), "credential", "one line"),
    Fault(
        "a credential that all can read",
        lambda setup: os.chmod(setup.directory / "credential", 0o644),
        "file-exposed",
        "chmod",
    ),
    Fault("a credential that is refused", listing(401), "credential-refused", "credential_file"),
    Fault("a token as a key", credential("ANTHROPIC_API_KEY=sk-ant-oat01-x\n"), "credential-kind", "OAUTH_TOKEN"),
    # the model's API
    Fault("an API without a list", listing(404), "credential-not-known", "breakglass chat"),
    Fault("an address with /v1", base_v1, "base-url", "write chat.base_url"),
    Fault("its limit is used up", listing(429), "model-busy", "status.anthropic.com"),
    Fault("an API that is overloaded", listing(529), "model-busy", "status.anthropic.com"),
    Fault("C2 no credit", fixed(NO_CREDIT), "model-refuses", "curl"),
    Fault(
        "C5 a proxy that only the unit knows",
        chat(base_url="https://api.nowhere.invalid"),
        "model-unreachable",
        "chat.https_proxy",
    ),
    Fault("a sign-in page", listing("html"), "model-unknown", "curl"),
    Fault("another program", fixed(b"SSH-2.0-OpenSSH_10.0\r\n"), "model-unreachable", "curl"),
    Fault("an API that has moved", fixed(MOVED), "model-moved", "base_url"),
    Fault(
        "nothing that listens",
        lambda setup: chat(base_url=f"http://127.0.0.1:{reserve_port()}")(setup),
        "model-unreachable",
        "curl",
    ),
    Fault("no TLS", without_tls, "model-unreachable", "curl"),
    Fault("a certificate of an unknown authority", unknown_authority, "model-certificate", "chat.ca_file"),
    Fault(
        "an authority's file that is gone",
        chat(base_url="https://127.0.0.1:1", ca_file="/nowhere.pem"),
        "ca-file",
        "openssl x509",
    ),
    Fault("no TLS for the credential", chat(base_url="http://192.0.2.1"), "chat-setting", "only for this machine"),
    Fault(
        "a proxy that is down",
        chat(base_url="https://api.example", https_proxy="http://127.0.0.1:1"),
        "proxy-unreachable",
        "chat.https_proxy",
    ),
    Fault("a proxy that refuses", proxy_that_refuses, "proxy-refused", "password"),
    # claude
    Fault("no claude", chat(command="claude-that-is-missing"), "claude-missing", "install"),
    Fault("no claude at that path", chat(command="/nowhere/claude"), "claude-missing", "chat.command"),
    Fault("a claude that may not be run", program("#!/bin/sh\n", 0o644), "claude-missing", "chmod 755"),
    Fault("a claude that fails", program("#!/bin/sh\necho broken >&2\nexit 1\n"), "claude-failed", "install"),
    Fault("a claude that is something else", program("#!/bin/sh\necho hello\n"), "claude-failed", "install"),
    Fault("a claude that is too old", printing("1.0.128 (Claude Code)", list_flags()[:5]), "claude-version", "2.1"),
    # turns
    Fault("no socket that starts turns", no_socket_for_turns, "turn-not-started", "breakglass-chat.socket"),
    Fault("one who hangs up", one_who_hangs_up, "turn-not-started", "breakglass-chat.socket"),
    # sessions.dir
    Fault("a directory that depends on where it starts", relative, "sessions-relative", 'dir = "/'),
    Fault("a directory that is a file", below_a_file, "sessions-unwritable", "install -d"),
]

WITH_MOUNTS = [
    Fault("a sandbox that the kernel refuses", refused_sandbox, "sandbox-refused", "user"),
    Fault("no bubblewrap", no_sandbox, "sandbox-missing", "apt-get install bubblewrap"),
    Fault("a directory of another user", of_another_user, "sessions-unwritable", "chown -R"),
    Fault("a file that all can read", readable_by_all, "sessions-exposed", "chmod 600"),
    Fault("a full file system", mounted("size=10m,mode=1777"), "sessions-full", "df"),
    Fault("a file system that is nearly full", mounted("size=60m,mode=1777"), "sessions-nearly-full", "df"),
    Fault("a file system without inodes", mounted("size=600m,nr_inodes=7,mode=1777"), "sessions-full", "df -i"),
    Fault("a file system that can't be written", mounted("ro"), "sessions-unwritable", "install -d"),
]


def check(setup: Setup, fault: Fault) -> None:
    finding = check_fault(setup, fault, PLACES, is_alone=True)
    assert finding.place == "chat"
    for name in ("stdout", "stderr"):
        printed = (setup.directory / name).read_text()
        assert SECRET not in printed
        assert "s3cret" not in printed


@pytest.mark.parametrize(
    "fault",
    cases(
        FAULTS,
        "a credential with spaces",
        "a credential that is refused",
        "nothing that listens",
        "no claude",
        "a claude that is too old",
        "a proxy that refuses",
    ),
)
def test_a_fault_is_found_with_its_fix(chatting: Setup, fault: Fault) -> None:
    check(chatting, fault)


@pytest.mark.real("mounts")
@pytest.mark.parametrize(
    "fault", cases(WITH_MOUNTS, "no bubblewrap", "a full file system", "a directory of another user")
)
def test_a_fault_of_the_system_is_found(chatting: Setup, fault: Fault) -> None:
    check(chatting, fault)


@pytest.mark.all
@pytest.mark.real("fuse")
def test_a_file_system_that_hangs_holds_nothing_up(chatting: Setup) -> None:
    """It is a finding, as a model that says nothing is; the rest is looked at, and the end waits for neither."""
    chatting.model.listing = "mute"
    chatting.constants |= {f"doctor.{part}.SECONDS": 2.0 for part in ("sessions", "model_api")}
    with unserved_fuse(chatting.directory / "sessions"):
        report = chatting.doctor(places=PLACES)
    codes = {finding.code: finding.level for finding in report.findings}
    assert codes == {
        "chat-isolated": "ok",
        "claude-installed": "ok",
        "sessions-hang": "error",
        "model-unreachable": "error",
    }
    assert report.seconds < 30


def test_a_hostile_program_reaches_nothing(chatting: Setup) -> None:
    """Doctor runs it as the handler's user, who can read every secret: so it has no network and no disk."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        port, at = listener.getsockname()[1], chatting.directory
        (at / "open").mkdir()
        (at / "open").chmod(0o777)
        attempts = [f"echo x >{at}/open/written", f"cat {at}/credential >&2", f"echo x >/dev/tcp/127.0.0.1/{port}"]
        program("#!/bin/bash\n" + "\n".join([*attempts, "echo '2.1.331 (Claude Code)'"]) + "\n")(chatting)
        chatting.doctor(places=PLACES)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert list((at / "open").iterdir()) == []
    assert SECRET not in (at / "stdout").read_text() + (at / "stderr").read_text()


def test_all_is_well(chatting: Setup) -> None:
    """Every line is ok, and each part of a turn has a line at the end."""
    report = chatting.doctor(places=PLACES)
    codes = ["chat-isolated", "claude-installed", "sessions-ready", "credential-accepted"]
    assert [finding.code for finding in report.findings] == codes
    assert report.code == 0
    [asked] = chatting.model.listed[-1:]
    assert asked["x-api-key"] == SECRET
    assert "by the handler itself" in report.findings[0].sentence


def test_a_replica_that_leaves_chat_to_another(chatting: Setup) -> None:
    """Nothing of it is checked."""
    chatting.environment["BREAKGLASS_CHAT"] = "off"
    assert [finding.code for finding in chatting.doctor(places=PLACES).findings] == ["chat-off"]
