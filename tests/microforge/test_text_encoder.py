import torch

from microforge.pipeline import MicroForgePipeline


def test_text_encoder_ignores_padding(pipeline: MicroForgePipeline) -> None:
    ids = torch.randint(20, 8000, (1, 5))
    mask = torch.ones(1, 5)
    text, pooled = pipeline.text_encoder.encode(ids, mask)
    for filler in (0, 999):
        padded = torch.cat([ids, torch.full((1, 7), filler)], 1)
        padded_mask = torch.cat([mask, torch.zeros(1, 7)], 1)
        again, pooled_again = pipeline.text_encoder.encode(padded, padded_mask)
        assert torch.allclose(again[:, :5], text, atol=1e-5)
        assert torch.allclose(pooled_again, pooled, atol=1e-5)
