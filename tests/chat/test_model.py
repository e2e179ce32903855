"""The scripted model API by itself. That claude takes it for the real one: test_chat.py and test_model_api.py."""

import json
import urllib.error
import urllib.request

import pytest

from ..support.model import Model


def test_it_answers_a_request_with_a_key_and_prints_nothing(model: Model, capfd: pytest.CaptureFixture[str]) -> None:
    """A request without a key is refused, as by the real one. In the demo the API shares a terminal with a person."""
    body = json.dumps({"model": "x", "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]}).encode()
    request = urllib.request.Request(f"{model.url}/v1/messages", body)
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(request, timeout=60)
    request.add_header("x-api-key", "x")
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert json.load(answer)["content"] == [{"type": "text", "text": "done"}]
    assert capfd.readouterr().err == ""
