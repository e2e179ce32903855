"""The real parts that tests need, and the reason if one of them is missing on this machine."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

from . import claude
from .guests import kernel_place

CAP_SYS_PTRACE = 19


def _program(name: str) -> str:
    return "" if shutil.which(name) else f"not installed: {name}"


@cache
def _mounts() -> str:
    """Say why this process can't have its own mounts, as root in a container without CAP_SYS_ADMIN."""
    tried = subprocess.run(["unshare", "--mount", "true"], capture_output=True, text=True, check=False)
    return f"no mount namespace can be made: {tried.stderr.strip()}" if tried.returncode else ""


def _ptrace() -> str:
    """Say why root can't see the open files of another user's process, as in a container by default."""
    [rights] = re.findall(r"CapEff:\t(\w+)", Path("/proc/self/status").read_text())
    return "" if int(rights, 16) >> CAP_SYS_PTRACE & 1 else "root has no CAP_SYS_PTRACE"


@cache
def _bwrap() -> str:
    """Say why no sandbox can be made, as in a container whose processes may make no namespace."""
    tried = subprocess.run(
        ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "true"], capture_output=True, text=True
    )
    return f"no sandbox can be made: {tried.stderr.strip()}" if tried.returncode else ""


def find_browser() -> str | None:
    """Return Chromium's program. The headless shell is preferred, because it takes a third of the processor time."""
    return shutil.which("chromium-headless-shell") or shutil.which("chromium")


def find_firefox() -> str | None:
    """Return Firefox's program, which is Debian's ESR if that is installed."""
    return shutil.which("firefox-esr") or shutil.which("firefox")


def find_minibrowser() -> Path | None:
    """Return the browser that comes with WebKitGTK, which its driver starts."""
    return next(iter(Path("/usr/lib").glob("*/webkit2gtk-4.*/MiniBrowser")), None)


def _node() -> str:
    """Say why node can't run the page's modules. Before 20.19, it does not treat a file with imports as a module."""
    if missing := _program("node"):
        return missing
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    numbers = tuple(int(number) for number in version.removeprefix("v").split(".")[:2])
    return "" if numbers >= (20, 19) else f"node is {version}: 20.19 or later is needed"


def find_tsc() -> Path:
    """Return the path of the compiler that checks the page's types. `./dev test` installs it."""
    return Path(sys.prefix) / "html/node_modules/.bin/tsc"


def _dev(name: str) -> str:
    return "" if Path("/dev", name).exists() else f"there is no /dev/{name}"


_CHECKS: dict[str, Callable[[], str]] = {
    "bwrap": lambda: _program("bwrap") or _bwrap(),
    "chromium": lambda: "" if find_browser() else "not installed: chromium-headless-shell or chromium",
    "claude": lambda: "" if claude.find() else "not installed: claude",
    "firefox": lambda: "" if find_firefox() else "not installed: firefox-esr",
    "fuse": lambda: _dev("fuse"),
    "guest": lambda: "" if (kernel_place() / "vmlinuz").exists() else "there is no kernel for a guest",
    "kvm": lambda: _dev("kvm"),
    "mounts": _mounts,
    "node": _node,
    "ptrace": _ptrace,
    "root": lambda: "" if os.geteuid() == 0 else "the tests don't run as root",
    "tsc": lambda: "" if find_tsc().exists() else "not installed: tsc",
    "tun": lambda: _dev("net/tun"),
    "webkit": lambda: "" if find_minibrowser() else "not installed: MiniBrowser",
}
# What each part needs: checks, and names or paths of programs. Any other part needs what it is called.
_NEEDS = {
    "alertmanager": "prometheus-alertmanager amtool",
    "buildah": "root buildah ip setpriv /usr/lib/podman/netavark mounts",
    "curl": "curl openssl",
    "debian": "root mmdebstrap apt-get nsenter mounts",
    "fail2ban": "fail2ban-regex fail2ban-client",
    "fsfreeze": "root fsfreeze mkfs.ext4 mounts",
    "fuse": "root fuse mounts",
    "guest": "qemu-system-x86_64 guest",
    "kvm": "as ld kvm",
    "kustomize": "kustomize openssl ssh-keygen",
    "mounts": "root mounts",
    "network": "root ip",
    "ptrace": "root ptrace",
    "qemu": "qemu-system-x86_64",
    "sshd": "root /usr/sbin/sshd mounts",
    "strace": "root ptrace strace",
    "systemd": "root systemd-analyze systemctl nsenter mounts",
    "tsc": "node tsc",
    "tun": "root ip tun",
    "webkit": "WebKitWebDriver Xvfb webkit",
}


def missing(part: str) -> str:
    """Return the reason why a real part is missing here, or an empty string."""
    needs = _NEEDS.get(part, part).split()
    return next(filter(None, (_CHECKS[need]() if need in _CHECKS else _program(need) for need in needs)), "")
