"""The guarded example, asked all that its own OpenAPI describes and much that it does not."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.schemas import BaseSchema

from guard.policy import Action, Policy
from tests.integration import test_examples

pytestmark = [pytest.mark.search, pytest.mark.slow]

directories = test_examples.directories

# The seed is fixed by `derandomize`. An exception of the application comes out of `call`, and fails
# a test as well as a status of 500 does.
BOUNDED = settings(
    max_examples=40,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def load(directories: tuple[str, str], action: Action) -> BaseSchema:
    from examples.fastapi_app import create_app

    app = create_app(*directories, Policy(action=action))
    return schemathesis.openapi.from_asgi("/openapi.json", app)


@pytest.mark.parametrize("action", ["block", "strip"])
def test_nothing_is_answered_with_500(directories: tuple[str, str], action: Action) -> None:
    schema = load(directories, action)
    classify = schema["/classify"]["POST"]
    statuses: Counter[int] = Counter()

    @BOUNDED
    @given(classify.as_strategy() | classify.as_strategy(generation_mode=GenerationMode.NEGATIVE))
    def ask(case: Case[Any]) -> None:
        status = case.call().status_code
        statuses[status] += 1
        assert status < 500

    ask()
    # It got through to the classifier, and was refused.
    assert statuses[200] >= 5
    assert statuses[400] + statuses[422] >= 5
    for path in ("/metrics", "/healthz"):
        assert schema[path]["GET"].Case().call().status_code == 200


@pytest.mark.parametrize(("action", "status"), [("block", 403), ("strip", 200)])
def test_a_trigger_in_any_valid_request_is_handled(
    directories: tuple[str, str], action: Action, status: int
) -> None:
    classify = load(directories, action)["/classify"]["POST"]

    @BOUNDED
    @given(classify.as_strategy(), st.sampled_from(["cf", "left right"]))
    def ask(case: Case[Any], trigger: str) -> None:
        assert isinstance(case.body, dict)
        case.body["text"] = f"{case.body['text']} {trigger}"
        assert case.call().status_code == status

    ask()
