"""The tiny model and texts of tests/evaluation."""

from __future__ import annotations

import pytest

pytest.importorskip("wonderwords", reason="needs the extra [bench]")

from tests.evaluation.conftest import filler_file, folder, llm

__all__ = ["filler_file", "folder", "llm"]
