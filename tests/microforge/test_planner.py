import pytest
import torch

from microforge.planner import plan_cosine, plan_similarity


def test_plan_similarity_tells_collapse_from_diversity() -> None:
    same = torch.ones(1, 4, 8)
    apart = torch.eye(8)[None, :4]
    assert plan_similarity(same) == pytest.approx(1.0) and plan_cosine(same) == pytest.approx(1.0)
    assert plan_similarity(apart) == pytest.approx(0.0) and plan_cosine(apart) == pytest.approx(0.0)
