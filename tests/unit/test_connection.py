"""What is known of uvicorn, whose HTTP protocol is private."""

import ast
import inspect

import pytest

from breakglass.web import connection
from breakglass.web.connection import BoundedProtocol

CODE = ast.parse(inspect.getsource(BoundedProtocol))
OWN = {*vars(BoundedProtocol), "_strangers", "_is_stopping"}


@pytest.mark.parametrize(("owner", "checked"), [("self", "_OF_PROTOCOL"), ("self.cycle", "_OF_CYCLE")])
def test_all_that_is_used_of_uvicorn_is_checked_at_the_start(owner: str, checked: str) -> None:
    """`check_uvicorn` has each attribute that BoundedProtocol uses and does not make."""
    attributes = [node for node in ast.walk(CODE) if isinstance(node, ast.Attribute)]
    used = {node.attr for node in attributes if ast.unparse(node.value) == owner}
    assert used - OWN == set(getattr(connection, checked))
