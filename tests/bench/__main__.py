"""`./dev bench [PART…]`: measures on real parts and on loopback, a few minutes a part.

Prints a table and, as the last line, the same as JSON.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from . import hosts, slow_page, verbs
from .client import Figures

PARTS: Mapping[str, tuple[Callable[[Path], Figures], Mapping[str, str]]] = {
    "verbs": (verbs.verb_figures, verbs.TITLES),
    "hosts": (hosts.fleet_figures, hosts.TITLES),
    "page": (slow_page.slow_page_figures, slow_page.TITLES),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="./dev bench", description="Measure all parts, or these.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    found: Figures = {}
    for name in parser.parse_args().parts or PARTS:
        figures, titles = PARTS[name]
        with tempfile.TemporaryDirectory(prefix="bg", ignore_cleanup_errors=True) as directory:
            Path(directory).chmod(0o711)
            measured = figures(Path(directory))
        for figure, title in titles.items():
            print(f"{title:<105} {measured[figure]:>10}")
        found |= measured
    print(json.dumps(found))


if __name__ == "__main__":
    main()
