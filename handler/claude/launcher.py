"""The launcher: the part of chat that needs root, in a process of its own that parses no request.

The process that answers HTTP has an ordinary user, and sends it messages (launch_messages.py) over a socket that no
other process has. The launcher looks at the sender's user, matches the message whole, and takes everything else from
its own reading of the configuration, which belongs to root. What could block, it does in a child.
"""

import os
import signal
import socket
import traceback
from collections.abc import Callable, Sequence

from .. import audit
from ..config.model import Config
from .launch_channel import ANCILLARY, open_channel, receive_senders, sender_of, unpack
from .launch_messages import ACCEPTED, FAILED, FDS, MOST_BYTES, NOT_ISOLATED, Message, parse_message
from .launched_turn import check_chat, is_socket, remove_below, run_turn, send_reply
from .processes import PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, prctl
from .readers import Readers
from .sandbox import own_sandbox_works
from .start import Account

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


def run_launcher(channel: socket.socket, account: Account, load: Callable[[], Config], handler: int) -> None:
    """Be the launcher, until the other end of the channel or the process `handler` has ended, and the last child has.

    `handler` is a pidfd. What the launcher starts has no way to more rights than the user has that it becomes.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # they are the handler's
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
        self._readers = Readers()
        self._is_open = True
        self._readers.add(channel.fileno(), self._read)
        self._readers.add(handler, lambda: self._outlive(handler))

    def run(self) -> None:
        """Take messages until the channel is closed and the last child has ended."""
        while self._is_open or self._children:
            self._readers.poll_once(3600)

    def _read(self) -> None:
        """Take a message, or notice that the other end is closed. Anything else closes the channel."""
        try:
            data, ancillary, flags, _ = self._channel.recvmsg(MOST_BYTES + 1, ANCILLARY, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError as error:
            self._close(str(error))
            return
        uid, fds = unpack(ancillary)
        if uid is None:  # the message came before this process had the service manager's socket
            uid = sender_of(self._channel)
        try:
            if not data and not fds:
                self._stop_reading()
                return
            if uid != self._account[0]:
                raise ValueError(f"a message came from user {uid}")
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                raise ValueError("a message is too long or has too many descriptors")
            message = parse_message(data)
            if len(fds) not in FDS[message.kind]:
                raise ValueError(f"a {message.kind} message has {len(fds)} descriptors")
            if not is_socket(fds[0]):
                raise ValueError(f"the first descriptor of a {message.kind} message is not a socket")
            self._take(message, fds)
        except ValueError as error:
            self._close(f"{error}")
        finally:
            for fd in fds:
                os.close(fd)

    def _close(self, why: str) -> None:
        audit.note_at_once("launcher-refused", why=why)
        self._stop_reading()
        self._channel.close()

    def _outlive(self, handler: int) -> None:
        """Take no message of another process that has the handler's socket."""
        self._readers.remove(handler)
        if self._is_open:
            self._close("the handler has ended")

    def _stop_reading(self) -> None:
        """Take no further message. A handler that ends can wait for the other end of its channel."""
        self._readers.remove(self._channel.fileno())
        self._is_open = False

    def _take(self, message: Message, fds: Sequence[int]) -> None:
        """Do what a message asks for, in a child. Only checks are done until one has found no fault."""
        reply = fds[0]
        if self._check >= 0:  # it has answered, or its own deadlines end it
            self._reap(self._check)
        if message.kind == "check":
            self._is_safe = False
            try:
                self._config = self._load()  # a reload reaches the launcher by this message
            except Exception as error:  # the configuration before it stays, whatever the error
                send_reply(reply, FAILED, f"the launcher can't read the configuration: {error}")
                return
        config, account = self._config, self._account
        if message.kind != "check" and not self._is_safe:
            send_reply(reply, FAILED, "the launcher's last check did not show that claude is isolated")
        elif config is None or config.chat is None:
            send_reply(reply, FAILED, "the launcher's configuration has no [chat]")
        elif len(self._children) >= MOST_CHILDREN:
            send_reply(reply, FAILED, f"the launcher has {MOST_CHILDREN} processes already")
        elif message.kind == "check":
            if config.chat.shared_uid:
                own_sandbox_works(account[0])  # tried once, here, and not in the child of each turn
            self._check = self._fork(lambda: _answer_check(config, account, reply), fds)
        elif message.kind == "remove":
            self._fork(lambda: remove_below(config, message.name, reply), fds)
        else:
            self._fork(lambda: run_turn(config, account, message, fds, audit.note_at_once), fds)

    def _fork(self, work: Callable[[], bool | None], fds: Sequence[int]) -> int:
        """Do `work` in a child that has these descriptors and no other; it ends with 0 for True. Return its pidfd."""
        try:
            pid = os.fork()
        except OSError as error:
            send_reply(fds[0], FAILED, f"the launcher can't start a process: {error}")
            return -1
        if pid == 0:
            try:
                _close_all_but(fds)
                os._exit(0 if work() else 1)
            except BaseException as error:
                _log_defect(error)
            finally:
                os._exit(1)
        pidfd = os.pidfd_open(pid)
        self._children[pidfd] = pid
        self._readers.add(pidfd, lambda: self._reap(pidfd))
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


def _answer_check(config: Config, account: Account, reply: int) -> bool:
    fault = check_chat(config, account)
    send_reply(reply, NOT_ISOLATED if fault else ACCEPTED, fault)
    return not fault


def _log_defect(error: BaseException) -> None:
    trace = "".join(traceback.format_exception(error))
    audit.note_at_once("defect", where="launcher", error=repr(error), trace=trace)
