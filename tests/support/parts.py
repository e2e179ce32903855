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


def _program(*names: str) -> str:
    missing = [name for name in names if shutil.which(name) is None]
    return f"not installed: {', '.join(missing)}" if missing else ""


def _root() -> str:
    return "" if os.geteuid() == 0 else "the tests don't run as root"


@cache
def _mounts() -> str:
    """Say why this process can't have its own mounts, as root in a container without CAP_SYS_ADMIN."""
    tried = subprocess.run(["unshare", "--mount", "true"], capture_output=True, text=True, check=False)
    return f"no mount namespace can be made: {tried.stderr.strip()}" if tried.returncode else ""


def _ptrace() -> str:
    """Say why root can't see the open files of another user's process, as in a container by default."""
    if reason := _root():
        return reason
    [rights] = re.findall(r"CapEff:\t(\w+)", Path("/proc/self/status").read_text())
    return "" if int(rights, 16) >> CAP_SYS_PTRACE & 1 else "root has no CAP_SYS_PTRACE"


@cache
def _bwrap() -> str:
    """Say why no sandbox can be made, as in a container whose processes may make no namespace."""
    if missing := _program("bwrap"):
        return missing
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


def _sshd() -> str:
    return _root() or ("" if Path("/usr/sbin/sshd").exists() else "not installed: sshd") or _mounts()


def _fuse() -> str:
    return _root() or ("" if Path("/dev/fuse").exists() else "there is no /dev/fuse") or _mounts()


def _claude() -> str:
    return "" if claude.find() is not None else "not installed: claude"


def _guest() -> str:
    """Say why no Linux guest can be booted. `./dev test` gets the kernel if root runs it on Debian."""
    return "" if (kernel_place() / "vmlinuz").exists() else "there is no kernel for a guest"


def _webkit() -> str:
    return _program("WebKitWebDriver", "Xvfb") or ("" if find_minibrowser() else "not installed: MiniBrowser")


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


PARTS: dict[str, Callable[[], str]] = {
    "alertmanager": lambda: _program("amtool"),
    "bwrap": _bwrap,
    "caddy": lambda: _program("caddy"),
    "buildah": lambda: _root() or _program("buildah", "ip", "setpriv", "/usr/lib/podman/netavark") or _mounts(),
    "chromium": lambda: "" if find_browser() else "not installed: chromium-headless-shell or chromium",
    "claude": _claude,
    "curl": lambda: _program("curl", "openssl"),
    "debian": lambda: _root() or _program("mmdebstrap", "apt-get", "nsenter") or _mounts(),
    "fail2ban": lambda: _program("fail2ban-regex", "fail2ban-client"),
    "firefox": lambda: "" if find_firefox() else "not installed: firefox-esr",
    "fsfreeze": lambda: _root() or _program("fsfreeze", "mkfs.ext4") or _mounts(),
    "fuse": _fuse,
    "guest": lambda: _program("qemu-system-x86_64") or _guest(),
    "kvm": lambda: _program("as", "ld") or ("" if os.access("/dev/kvm", os.W_OK) else "there is no /dev/kvm"),
    "kustomize": lambda: _program("kustomize", "openssl", "ssh-keygen"),
    "mounts": lambda: _root() or _mounts(),
    "network": lambda: _root() or _program("ip"),
    "nginx": lambda: _program("nginx"),
    "node": _node,
    "ptrace": _ptrace,
    "promtool": lambda: _program("promtool"),
    "qemu": lambda: _program("qemu-system-x86_64"),
    "root": _root,
    "sshd": _sshd,
    "strace": lambda: _ptrace() or _program("strace"),
    "systemd": lambda: _root() or _program("systemd-analyze", "systemctl", "nsenter") or _mounts(),
    "tun": lambda: _root() or _program("ip") or ("" if Path("/dev/net/tun").exists() else "there is no /dev/net/tun"),
    "tsc": lambda: _node() or ("" if find_tsc().exists() else "not installed: tsc"),
    "webkit": _webkit,
}


def missing(part: str) -> str:
    """Return the reason why a real part is missing here, or an empty string."""
    return PARTS[part]()
