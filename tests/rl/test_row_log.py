"""A row log after a kill, and after an editor."""

from __future__ import annotations

from pathlib import Path

import pytest

from pretrain.run.errors import KeyeError
from rl.row_log import RowLog


def test_half_a_line_is_removed_and_a_whole_one_without_its_line_feed_kept(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    for left, ids in (
        ('{"id": "a"}\n{"id": "b", "te', {"a"}),  # cut off by a kill
        ('{"id": "a"}\n{"id": "b"}', {"a", "b"}),  # saved by an editor
        ('{"id": "b"}', {"b"}),
    ):
        path.write_text(left)
        log = RowLog(path)
        assert log.ids == ids
        log.append([{"id": "c"}])
        assert [row["id"] for row in RowLog(path).rows()] == [*sorted(ids), "c"]


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": "a"}\nnonsense\n{"id": "b"}\n')
    with pytest.raises(KeyeError, match=r"rows\.jsonl:2 is no row with an id"):
        RowLog(path)
