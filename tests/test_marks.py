"""No collected test has a mark that hides it from every target of the Makefile."""

from __future__ import annotations

import pytest

from tests.marks import CHOSEN, HIDDEN, hidden


def test_no_collected_test_is_hidden(pytestconfig: pytest.Config) -> None:
    assert pytestconfig.stash[HIDDEN] == []


@pytest.mark.parametrize("name", CHOSEN)
def test_a_mark_that_the_text_of_the_file_lacks_is_found(request: pytest.FixtureRequest, name: str) -> None:
    assert hidden([request.node]) == []
    request.node.add_marker(name)
    (found,) = hidden([request.node])
    assert f"is marked {name}, and test_marks.py lacks" in found
