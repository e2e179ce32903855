"""What can be reached from behind the walls of a turn: real bubblewrap, under the handler's own user.

The planted files can be read and changed by every user, so nothing but a wall keeps what runs there from them.
"""

import shlex
import socket
import subprocess
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import product
from pathlib import Path

import pytest

from ..support.attacks import (
    CLAUDE,
    COMMAND,
    COMMANDS,
    NAMES,
    OWN,
    PLACES,
    SECRET,
    SSH_CLIENT,
    Attack,
    may_have,
    place_of,
    targets,
)
from ..support.naps import nap, wait_until_gone
from ..support.service import as_handler

pytestmark = [pytest.mark.real("bwrap"), pytest.mark.slow]

Said = list[tuple[str, str]]  # each command, and what it printed
READING = [*COMMANDS["readers"], *COMMANDS["ways back"]]
EVERYWHERE = pytest.mark.parametrize("attack", [COMMAND, CLAUDE, SSH_CLIENT], indirect=True)


@pytest.fixture
def attack(directory: Path, request: pytest.FixtureRequest) -> Attack:
    return Attack(directory, getattr(request, "param", COMMAND))


def aim(commands: Sequence[str], paths: Sequence[Path]) -> list[str]:
    """Return each command for each path."""
    return [f"F={path} D={path}; {command}" for path, command in product(paths, commands)]


def pick(output: Said, *words: str, has: bool = True) -> list[str]:
    """Return the commands that printed one of the words, or with `has=False` those that printed none."""
    return [command for command, text in output if any(word in text for word in words) == has]


@EVERYWHERE
def test_no_file_of_ours_is_read(attack: Attack, directory: Path) -> None:
    """Every way to read, tried on files that every user can read: nothing comes out."""
    found = targets(directory)
    names = [each for each in NAMES if each not in may_have(attack.where)]
    assert pick(attack.run_all(aim(READING, [found[each] for each in names])), SECRET) == []


@EVERYWHERE
def test_no_process_has_anything(attack: Attack) -> None:
    """A command reads neither the memory nor the environment of another process of the user or of the turn.

    It sees its own few processes, and can signal no other.
    """
    command = ["tail", "-f", "/dev/null", SECRET]  # which continues without that file
    with subprocess.Popen(command, env={"PLANTED": SECRET}, stderr=subprocess.DEVNULL, **as_handler()) as other:
        try:
            output = attack.run_all(["ls -d /proc/[0-9]*", f"kill -9 {other.pid}", *COMMANDS["processes"]])
            assert other.poll() is None
        finally:
            other.kill()
    assert pick(output, SECRET, "sk-model") == []
    assert attack.where == CLAUDE or pick(output, "ANTHROPIC") == []
    pids = [int(line.removeprefix("/proc/")) for line in output[0][1].splitlines() if line.startswith("/proc/")]
    assert pids
    assert max(pids) < 30


@EVERYWHERE
def test_only_its_own_can_be_written(attack: Attack, directory: Path) -> None:
    """Every way to make a file, tried in a directory that every user can write: no file is there afterwards."""
    word, found = f"owned-{uuid.uuid4().hex}", targets(directory)
    places = [place_of(found, each) for each in PLACES]
    seen = attack.run_all(
        [*aim(COMMANDS["writers"], places), "ls -d /turn/*owned* /turn/bin/*owned* /turn/cwd/*owned*"], N=word
    )
    assert [path for place in places if place.exists() for path in place.glob(f"{word}*")] == []
    assert f"/{word}" not in seen[-1][1].replace("cannot access", "")


def describe(path: Path) -> tuple[object, ...]:
    """Return all that a command could change in a file."""
    found = path.lstat()
    facts = (found.st_mode, found.st_uid, found.st_gid, found.st_nlink, found.st_ino, found.st_size)
    return (*facts, found.st_mtime_ns, found.st_ctime_ns, path.read_bytes())


@EVERYWHERE
def test_no_file_of_ours_is_changed(attack: Attack, directory: Path) -> None:
    """Every way to change or remove a file, tried on files that every user can write: not even a time is another."""
    aims = list(targets(directory).values())
    paths = [path for path in aims if path.exists()]
    before = list(map(describe, paths))
    attack.run_all(aim(COMMANDS["changers"], aims))
    assert list(map(describe, paths)) == before


@pytest.mark.all
def test_the_commands_succeed_on_what_is_the_turns_own(attack: Attack) -> None:
    """The same commands read, make and change files of the turn. Elsewhere they find nothing to read or to write."""
    begin = f"mkdir -p $TMPDIR/own $TMPDIR/made; F=$TMPDIR/own/file; D=$TMPDIR/made; rm -rf $F $D/*; echo {OWN} >$F"
    state = "$(stat -c %i.%s.%Y.%a $F; cksum <$F)"
    tried = [[f"{begin}; {command}" for command in READING]]
    tried.append([f"{begin}; N=owned; {one}\nls $D | grep -q . && echo {OWN}" for one in COMMANDS["writers"]])
    changed = f'[ "$old" = "{state}" ] || echo {OWN}'
    tried.append([f"{begin}; old={state}\n{command}\n{changed}" for command in COMMANDS["changers"]])
    for commands in tried:
        silent = pick(attack.run_all(commands), OWN, has=False)
        assert len(silent) < len(commands) / 8, silent  # some of the programs may not be installed


@EVERYWHERE
def test_nothing_lives_on(attack: Attack) -> None:
    """Every way to outlive a shell: a session of one's own, no signal, no descriptor, no parent."""
    seconds, most = nap(77).split()[1], len(COMMANDS["survivors"]) * 3 // 4
    count = f"cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n' | grep -cx {seconds}"
    wait = f"for _ in $(seq 300); do n=$({count}); [ $n -le {most} ] || break; sleep 0.1; done; echo $n"
    said = attack.run_all([*COMMANDS["survivors"], wait], S=seconds)[-1][1]
    assert int(said.split()[-1]) > most  # an earlier command may say late why it failed
    wait_until_gone(seconds, 60)


RIGHTS = """
grep -E '^(CapEff|CapPrm|NoNewPrivs)' /proc/self/status
unshare -Ur true && echo a-namespace
echo memory: $(df -k --output=size /tmp /dev/shm | tail -n 2)
echo score: $(cat /proc/self/oom_score_adj)
touch /x /dev/x /usr/x && echo a-file-outside
echo limits: $(ulimit -c; ulimit -f; ulimit -v)
echo processes: $(ulimit -u)"""


@EVERYWHERE
def test_no_right_can_be_gained(attack: Attack) -> None:
    """No capability, no program that changes the user, limits; and no further namespace, but for claude's commands."""
    output = attack.run(RIGHTS)
    lines = dict(line.split(":", 1) for line in output.splitlines() if ":" in line)
    rights = {name: lines[name].strip() for name in ("CapEff", "CapPrm", "NoNewPrivs", "limits", "score")}
    limits = f"0 {(64 << 20) // 1024} {(8 << 30) // 1024}"
    assert rights == {"CapEff": "0" * 16, "CapPrm": "0" * 16, "NoNewPrivs": "1", "limits": limits, "score": "500"}
    assert lines["memory"].split() == [str(64 << 10)] * 2
    assert attack.where == CLAUDE or "a-namespace" not in output
    assert "a-file-outside" not in output
    most = {COMMAND: "64", CLAUDE: "512"}.get(attack.where)
    assert most in (None, lines["processes"].strip())


# what is tried to be reached for some seconds, the relay to the model proxy as the last one
_REACH = """
import socket, sys, time
seconds = float(sys.argv[1])
for target in [*sys.argv[2:], "stream:8080"]:
    kind, _, place = target.partition(":")
    number = socket.SOCK_DGRAM if kind == "datagram" else socket.SOCK_STREAM
    family = socket.AF_INET if place.isdigit() else socket.AF_UNIX
    try:
        with socket.socket(family, number) as tried:
            until = time.monotonic() + (seconds if place == "8080" else 0)  # the relay begins beside claude
            while tried.connect_ex(address := ("127.0.0.1", int(place)) if place.isdigit() else "\\0" + place):
                if time.monotonic() > until:
                    tried.connect(address)
                time.sleep(0.05)
            for _ in "12":  # the second one hears that the first one did not arrive
                tried.send(b"planted\\r\\n\\r\\n")
            print("answered by", place, tried.recv(20) if place == "8080" else "none")
    except OSError as error:
        print("not", place, error)
print("interfaces", *(name for _, name in socket.if_nameindex()))
"""


@pytest.mark.parametrize("attack", [COMMAND, CLAUDE], indirect=True)
def test_there_is_no_network(attack: Attack) -> None:
    """A command reaches neither this machine's loopback nor its abstract sockets.

    A claude that was taken over has the model proxy.
    """
    with ExitStack() as stack:
        sockets = []
        for family, kind in product((socket.AF_INET, socket.AF_UNIX), (socket.SOCK_STREAM, socket.SOCK_DGRAM)):
            sockets.append(stack.enter_context(socket.socket(family, kind)))
            sockets[-1].bind(("127.0.0.1", 0) if family == socket.AF_INET else f"\0breakglass-{uuid.uuid4().hex}")
            sockets[-1].setblocking(False)
            if kind == socket.SOCK_STREAM:
                sockets[-1].listen()
        names = [name[1] if isinstance(name := one.getsockname(), tuple) else name[1:].decode() for one in sockets]
        kinds = ["datagram" if one.type == socket.SOCK_DGRAM else "stream" for one in sockets]
        aims = [f"{kind}:{name}" for kind, name in zip(kinds, names, strict=True)]
        seconds = 10 if attack.where == CLAUDE else 1  # a command has no relay to wait for
        output = attack.run(f"python3 -c {shlex.quote(_REACH)} {seconds} {shlex.join(aims)}")
        for one in sockets:
            with pytest.raises(BlockingIOError):
                one.recv(1) if one.type == socket.SOCK_DGRAM else one.accept()
    lines = output.splitlines()
    proxy = "answered" if attack.where == CLAUDE else "not"
    assert [line.split()[0] for line in lines] == ["not"] * 4 + [proxy, "interfaces"], output
    assert attack.where == COMMAND or "HTTP/1.1 400" in lines[-2]
    assert "lo" in lines[-1].split()


HOSTILE = {
    "no JSON": b"\xff\x00",
    "no list": b'{"pve": "status"}',
    "no texts": b'["pve", 1]',
    "no such command": b'["ssh", "status"]',
    "a path": b'["../../bin/sh", "-c", "id"]',
    "deep": b"[" * 60_000,
    "a zero byte": b'["devvm", "id\\u0000"]',
    "a huge frame": b"",
}


def test_hostile_requests_start_nothing(attack: Attack) -> None:
    """The worker continues after each, and serves the next client."""
    sizes = {what: 1 << 31 if what == "a huge frame" else len(sent) for what, sent in HOSTILE.items()}
    send = (
        "import socket, struct, sys; s = socket.socket(socket.AF_UNIX); s.connect('/turn/commands'); "
        "s.sendall(struct.pack('>cI', b'r', int(sys.argv[1])) + bytes.fromhex(sys.stdin.read())); "
        "s.shutdown(1); print(s.recv(65536))"
    )
    seen = attack.run_all(
        f'echo {sent.hex()} | python3 -c "{send}" {sizes[what]}; pve status' for what, sent in HOSTILE.items()
    )
    assert pick(seen, "uid=") == []
    assert pick(seen, "devvm: running", has=False) == []
