"""The check of uvicorn's private HTTP protocol."""

import ast
import inspect

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from breakglass.web import connection
from breakglass.web.connection import BoundedProtocol

from ..support.rows import each_row

CODE = ast.parse(inspect.getsource(BoundedProtocol))
OWN = {*vars(BoundedProtocol), "_strangers", "_unread", "_reader", "_is_stopping"}
KINDS = {"self": HttpToolsProtocol, "self.cycle": RequestResponseCycle, "self.flow": FlowControl}


@each_row("owner", KINDS)
def test_all_that_is_used_of_uvicorn_is_checked_at_the_start(owner: str) -> None:
    """`check_uvicorn` lists each attribute that BoundedProtocol uses and does not define."""
    attributes = [node for node in ast.walk(CODE) if isinstance(node, ast.Attribute)]
    used = {node.attr for node in attributes if ast.unparse(node.value) == owner}
    assert used - OWN == set(connection._USED[KINDS[owner]])
