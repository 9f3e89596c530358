"""The deletion of 200,000 keys by a filter, during which no change and no search waits for long."""

from pathlib import Path

import pytest

from tests.unit.service.test_deleting_many import check_that_others_get_on

pytestmark = pytest.mark.slow


@pytest.mark.timeout(900)
def test_200000_keys_go_without_holding_anybody_up(tmp_path: Path) -> None:
    check_that_others_get_on(tmp_path, 200_000, longest_s=2.5)
