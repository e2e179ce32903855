"""On PYTHONPATH while tests are measured: each Python that starts records what it runs."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
from tests.support.measuring import begin

del sys.path[0]

begin()
