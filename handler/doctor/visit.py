"""What `breakglass doctor` was asked to look at, and what it may use for that."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..chat.launcher import LauncherClient
from ..client import Signer
from ..config.model import Config, Vm
from ..config.problems import Problem
from .findings import Finding


@dataclass(frozen=True)
class Visit:
    """One run of doctor.

    `config` is None if no handler would start with the file; `path` is None without a file. `signer` is None if no
    handler's URL or no signing key is known. `vm` is the name of the only VM to look at, if it is not empty. `samples`
    are payloads of monitoring systems, by source. The look at the hosts fills `owners`: the host that has each VM, or
    its first one if that is not known.
    """

    path: Path | None
    config: Config | None
    problems: Sequence[Problem]
    signer: Signer | None
    url: str
    vm: str
    samples: Mapping[str, Sequence[bytes]]
    now: float  # Unix time
    environment: Mapping[str, str] = field(repr=False)
    owners: dict[str, str] = field(default_factory=dict)
    launcher: LauncherClient | None = None  # chat's, if root has started doctor or a unit runs it

    @property
    def vms(self) -> list[Vm]:
        """The VMs to look at."""
        found = self.config.vms.values() if self.config else ()
        return [vm for vm in found if self.vm in ("", vm.name)]


Look = Callable[[Visit], AsyncIterator[Finding]]
