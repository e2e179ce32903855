"""The breakglass handler: receives signed HTTP requests, and runs one forced command on a Proxmox host.

This folder is the import package `breakglass`. The wheel puts `agents`, `docs` and `static_site` inside it; in a
checkout they are next to this folder, so the checkout's root is added as a second place to look for subpackages.
"""

import os

_ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
if os.path.basename(os.path.dirname(os.path.realpath(__file__))) == "handler":
    __path__.append(_ROOT)
