"""The launcher: the part of chat that needs root, in a process of its own that parses no request.

The process that answers HTTP has an ordinary user, and sends it messages (launch_messages.py) over a socket that no
other process has. The launcher looks at the sender's user, matches the message whole, and takes everything else from
its own reading of the configuration, which belongs to root. What could block, it does in a child.
"""

import contextlib
import os
import select
import signal
import socket
import time
import traceback
from collections.abc import Callable, Sequence

from ..base import audit
from ..config.model import Config
from .launch_channel import ANCILLARY, NO_FDS, open_channel, receive_senders, sender_of, unpack
from .launch_messages import ACCEPTED, FAILED, FDS, MOST_BYTES, NOT_ISOLATED, Message, parse_message
from .launched_turn import check_chat, is_unix_socket, remove_below, run_turn, send_reply
from .processes import PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, prctl
from .runner_io import Readers
from .sandbox import own_wall_works
from .start import Account

Work = Callable[[Sequence[int], int], bool | None]  # with the descriptors, and the pipe to close at a turn's end

SHARED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # the handler's, if its process group gets them
PAUSE_SECONDS = 0.1  # when no process can be started
MOST_CHILDREN = 200  # three for each of the 64 turns of a handler: a turn's own is there until its files are removed


def start_launcher(account: Account, load: Callable[[], Config]) -> socket.socket:
    """Fork the launcher; return the socket to it. Call this as root, in a process without threads.

    It ends when this process has ended, and its own children have. It does not wait for others that have the socket:
    a handler that was taken over could leave some behind.
    """
    ours, theirs = open_channel()
    handler = os.pidfd_open(os.getpid())
    if os.fork() == 0:
        try:
            ours.close()
            run_launcher(theirs, account, load, handler)
        except BaseException as error:
            _log_defect(error)
        finally:
            os._exit(0)
    theirs.close()
    os.close(handler)
    return ours


def run_launcher(
    channel: socket.socket, account: Account, load: Callable[[], Config], handler: int, ignored: Sequence[int] = SHARED
) -> None:
    """Be the launcher, until the other end of the channel or the process `handler` has ended, and the last child has.

    `handler` is a pidfd. What the launcher starts has no way to more rights than the user has that it becomes.
    """
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # what the launcher starts must not inherit the handler's
    prctl(PR_SET_DUMPABLE, 0)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    receive_senders(channel)
    Launcher(channel, account, load, handler).run()


class Launcher:
    """The running launcher. `account` is the user and group of the process that answers HTTP, `handler` its pidfd."""

    def __init__(self, channel: socket.socket, account: Account, load: Callable[[], Config], handler: int) -> None:
        self._channel, self._account, self._load = channel, account, load
        self._config: Config | None = None
        self._is_safe = False  # whether the last check of that configuration found no fault
        self._check = -1  # the pidfd of a check that has not ended
        self._children: dict[int, int] = {}  # the pid by the pidfd
        self._turns: set[int] = set()  # a pipe for each turn, which its child closes once the runner has ended
        self._readers = Readers()
        self._is_open = True
        self._readers.add(channel.fileno(), self._read)
        self._readers.add(handler, lambda: self._outlive(handler))

    def run(self) -> None:
        """Take messages until the channel is closed and the last child has ended."""
        while self._is_open or self._children:
            self._readers.poll_once(3600)

    def _read(self) -> None:
        """Look at a message, and have a child take it; or notice that the other end is closed.

        Anything else closes the channel. A message's descriptors are never this process's: to close one can take as
        long as the sender wants, as for a connection with SO_LINGER or a file of FUSE.
        """
        look = socket.MSG_PEEK | socket.MSG_DONTWAIT
        try:
            data, ancillary, flags, _ = self._channel.recvmsg(MOST_BYTES + 1, NO_FDS, look)
        except BlockingIOError:
            return
        except OSError as error:
            self._close(str(error))
            return
        if not data and not flags & socket.MSG_CTRUNC:
            self._stop_reading()
            return
        uid, _ = unpack(ancillary)
        if uid is None:  # the message came before this process had the service manager's socket
            uid = sender_of(self._channel)
        try:
            if uid != self._account[0]:
                raise ValueError(f"a message came from user {uid}")
            if flags & socket.MSG_TRUNC:
                raise ValueError("a message is too long")
            if len(self._children) >= 2 * MOST_CHILDREN:
                raise ValueError(f"the launcher has {len(self._children)} processes already")
            self._take(parse_message(data))
        except ValueError as error:
            self._close(f"{error}")

    def _close(self, why: str) -> None:
        """Say that no message is taken any more. The socket stays, because descriptors may be in it, until the end."""
        audit.note_at_once("launcher-refused", why=why)
        self._stop_reading()
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)
        self._channel.detach()  # a process that ends waits for no descriptor

    def _outlive(self, handler: int) -> None:
        """Take no message of another process that has the handler's socket."""
        self._readers.remove(handler)
        if self._is_open:
            self._close("the handler has ended")

    def _stop_reading(self) -> None:
        """Take no further message. A handler that ends can wait for the other end of its channel."""
        self._readers.remove(self._channel.fileno())
        self._is_open = False

    def _take(self, message: Message) -> None:
        """Do what a message asks for, in a child. Only checks are done until one has found no fault."""
        if self._check >= 0:  # it has answered, or its own deadlines end it
            self._reap(self._check)
        why = ""
        if message.kind == "check":
            self._is_safe = False
            try:
                self._config = self._load()  # a reload reaches the launcher by this message
            except Exception as error:  # the configuration before it stays, whatever the error
                why = f"the launcher can't read the configuration: {error}"
        config, account = self._config, self._account
        why = why or self._find_refusal(message, config)
        if why or config is None:
            self._fork(message, lambda fds, _: send_reply(fds[0], FAILED, why))
        elif message.kind == "check":
            if config.chat is not None and config.chat.shared_uid:
                own_wall_works(account[0])  # tried once, here, and not in the child of each turn
            self._check = self._fork(message, lambda fds, _: _answer_check(config, account, fds[0]))
        elif message.kind == "remove":
            self._fork(message, lambda fds, _: remove_below(config, message.name, fds[0]))
        else:
            note = audit.note_at_once
            self._fork(message, lambda fds, turn: run_turn(config, account, message, fds, turn, note))

    def _find_refusal(self, message: Message, config: Config | None) -> str:
        if message.kind != "check" and not self._is_safe:
            return "the launcher's last check did not show that claude is isolated"
        if config is None or config.chat is None:
            return "the launcher's configuration has no [chat]"
        if len(self._children) >= MOST_CHILDREN:
            return f"the launcher has {MOST_CHILDREN} processes already"
        if message.kind == "turn" and self._count_turns() >= config.chat.max_turns_at_once:
            return f"the launcher runs {config.chat.max_turns_at_once} turns already"
        return ""

    def _count_turns(self) -> int:
        """Return how many runners have not ended. The handler may know of an end as soon as this process can."""
        for fd in select.select(list(self._turns), [], [], 0)[0]:
            self._turns.discard(fd)
            os.close(fd)
        return len(self._turns)

    def _fork(self, message: Message, work: Work) -> int:
        """Have a child receive the message and do `work`; it ends with 0 for True. Return its pidfd.

        The child has a message's descriptors and no other. It says whether there were as many as there should be by a
        pipe, and closes that when a turn has ended.
        """
        end, turn = os.pipe()
        try:
            pid = os.fork()
        except OSError:  # the message stays where it is
            os.close(end)
            os.close(turn)
            time.sleep(PAUSE_SECONDS)
            return -1
        if pid == 0:
            try:
                _close_all_but((self._channel.fileno(), turn))
                fds, why = _receive(self._channel, message.kind)
                self._channel.close()
                os.write(turn, why.encode() or b"+")
                os._exit(0 if not why and work(fds, turn) else 1)
            except BaseException as error:
                _log_defect(error)
            finally:
                os._exit(1)
        os.close(turn)
        pidfd = os.pidfd_open(pid)
        self._children[pidfd] = pid
        self._readers.add(pidfd, lambda: self._reap(pidfd))
        answer = os.read(end, 1024)
        if message.kind == "turn":
            self._turns.add(end)
        else:
            os.close(end)
        if answer not in (b"", b"+"):
            raise ValueError(answer.decode())
        return pidfd

    def _reap(self, pidfd: int) -> None:
        """Wait for a child."""
        _, status = os.waitpid(self._children.pop(pidfd), 0)
        self._readers.remove(pidfd)
        os.close(pidfd)
        if pidfd == self._check:
            self._check, self._is_safe = -1, status == 0


def _close_all_but(fds: Sequence[int]) -> None:
    begin = 3
    for fd in sorted(fds):
        os.closerange(begin, fd)
        begin = fd + 1
    os.closerange(begin, os.sysconf("SC_OPEN_MAX"))


def _receive(channel: socket.socket, kind: str) -> tuple[list[int], str]:
    """Return the descriptors of the next message, which is one of that kind, and what is wrong with them, or ""."""
    _, ancillary, flags, _ = channel.recvmsg(MOST_BYTES, ANCILLARY, socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT)
    _, fds = unpack(ancillary)
    if flags & socket.MSG_CTRUNC or len(fds) not in FDS[kind]:
        return fds, f"a {kind} message has another number of descriptors, {len(fds)}"
    if not is_unix_socket(fds[0]):
        return fds, f"the first descriptor of a {kind} message is not a socket"
    return fds, ""


def _answer_check(config: Config, account: Account, reply: int) -> bool:
    fault = check_chat(config, account)
    send_reply(reply, NOT_ISOLATED if fault else ACCEPTED, fault)
    return not fault


def _log_defect(error: BaseException) -> None:
    trace = "".join(traceback.format_exception(error))
    audit.note_at_once("defect", where="launcher", error=repr(error), trace=trace)
