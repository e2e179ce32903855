#!/usr/bin/python3
"""A stand-in for `systemctl` where no systemd is process 1. It starts a unit's program as the installed unit file says.

It knows ExecStart=, ExecReload=, User=, Environment=, UMask=, LoadCredential= and PIDFile=. It restarts nothing and
makes no sandbox. tests/deploy/test_units.py has a real systemd.
"""

import os
import pwd
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

UNITS = ("/etc/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system")
RUN = Path("/run/systemctl")
SECONDS = 60


class Unit:
    """One unit file, with its drop-ins."""

    def __init__(self, name: str) -> None:
        self.name = name if "." in name else f"{name}.service"
        found = [Path(directory, self.name) for directory in UNITS if Path(directory, self.name).exists()]
        if not found:
            sys.exit(f"Unit {self.name} not found.")
        self.lines: list[str] = []
        for file in (found[0], *sorted(Path(f"/etc/systemd/system/{self.name}.d").glob("*.conf"))):
            text = file.read_text().replace("\\\n", " ")
            self.lines += [line.strip() for line in text.splitlines() if line.strip()[:1] not in ("#", ";")]
        self.pid_file = RUN / f"{self.name}.pid"
        self.log = Path("/var/log") / f"{self.name}.log"

    def all(self, key: str) -> list[str]:
        return [line.partition("=")[2] for line in self.lines if line.partition("=")[0] == key]

    def one(self, key: str, without: str = "") -> str:
        return [without, *self.all(key)][-1]

    @property
    def pid(self) -> int:
        for file in (self.one("PIDFile"), str(self.pid_file)):
            try:
                pid = int(Path(file).read_text()) if file else 0
                state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            except (OSError, ValueError):
                continue
            if state != "Z":
                return pid
        return 0

    def environment(self, account: pwd.struct_passwd) -> dict[str, str]:
        own = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin", "LANG": "C.UTF-8"}
        own |= dict(word.split("=", 1) for line in self.all("Environment") for word in shlex.split(line))
        if self.all("LoadCredential"):
            place = Path("/run/credentials", self.name)
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            for given in self.all("LoadCredential"):
                name, _, source = given.partition(":")
                files = [(name, Path(source))]
                if Path(source).is_dir():
                    files = [(f"{name}_{path.name}", path) for path in Path(source).iterdir() if path.is_file()]
                for target, path in files:
                    (place / target).write_bytes(path.read_bytes())
                    (place / target).chmod(0o400)
                    os.chown(place / target, account.pw_uid, -1)
            os.chown(place, account.pw_uid, account.pw_gid)
            place.chmod(0o500)
            own["CREDENTIALS_DIRECTORY"] = str(place)
        return own

    def command(self, line: str, environment: dict[str, str]) -> list[str]:
        names = environment | {"MAINPID": str(self.pid)}
        expanded: list[str] = []
        for word in shlex.split(line.lstrip("-@:+!")):
            if word[:1] == "$" and word[1:].strip("{}").isidentifier():
                value = names.get(word[1:].strip("{}"), "")
                expanded += [value] if word[1] == "{" else value.split()
            else:
                expanded.append(word)
        return expanded

    def start(self) -> None:
        if self.pid or self.name.endswith(".socket"):
            return
        account = pwd.getpwnam(self.one("User", "root"))
        environment = self.environment(account)
        who: dict[str, Any] = {}
        if account.pw_uid:
            who = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        who |= {"umask": int(self.one("UMask", "0022"), 8), "cwd": "/", "env": environment}
        self.log.parent.mkdir(exist_ok=True)
        with self.log.open("ab") as log, open("/dev/null") as null:
            process = subprocess.Popen(
                self.command(self.one("ExecStart"), environment), stdin=null, stdout=log, stderr=log,
                start_new_session=True, **who,
            )  # fmt: skip
        if self.one("Type") == "forking":
            sys.exit(process.wait() and f"{self.name} failed: {self.log.read_text()}")
        RUN.mkdir(exist_ok=True)
        self.pid_file.write_text(str(process.pid))

    def stop(self) -> None:
        pid = self.pid
        if pid:
            os.kill(pid, signal.SIGTERM)
            until = time.monotonic() + SECONDS
            while self.pid == pid or (self.one("KillMode") != "process" and in_session(pid)):
                if time.monotonic() > until:
                    sys.exit(f"{self.name} does not end")
                time.sleep(0.02)
        self.pid_file.unlink(missing_ok=True)
        shutil.rmtree(Path("/run/credentials", self.name), ignore_errors=True)

    def reload(self) -> None:
        for line in self.all("ExecReload"):
            subprocess.run(self.command(line, {}), check=True)


def in_session(leader: int) -> bool:
    """Tell whether a process of a session lives, because a unit ends with its last process."""
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session = file.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(session) == leader and state not in "ZX":
            return True
    return False


def main() -> int:
    options = [word for word in sys.argv[1:] if word.startswith("-")]
    words = [word for word in sys.argv[1:] if not word.startswith("-")]
    verb, names = words[0], words[1:]
    if verb in ("daemon-reload", "reset-failed"):
        return 0
    units = [Unit(name) for name in names]
    wants = Path("/etc/systemd/system/multi-user.target.wants")
    for unit in units:
        if verb in ("enable", "disable"):
            link = wants / unit.name
            if verb == "enable" and unit.one("WantedBy"):
                wants.mkdir(exist_ok=True)
                link.unlink(missing_ok=True)
                link.symlink_to(next(f"{place}/{unit.name}" for place in UNITS if Path(place, unit.name).exists()))
            elif verb == "disable":
                link.unlink(missing_ok=True)
        if verb in ("stop", "restart") or (verb == "disable" and "--now" in options):
            unit.stop()
        if verb in ("start", "restart") or (verb == "enable" and "--now" in options):
            unit.start()
        if verb in ("reload", "try-reload-or-restart", "reload-or-restart") and unit.pid:
            unit.reload()
        elif verb == "reload-or-restart":
            unit.start()
        if verb in ("status", "is-active"):
            print("active" if unit.pid else "inactive")
            if not unit.pid:
                return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
