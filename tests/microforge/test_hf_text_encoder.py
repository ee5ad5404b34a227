"""External text encoders, small and random: hidden states equal to those of transformers, and a pipeline that takes them."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import nn

from microforge.denoiser import build_backbone, build_planner
from microforge.errors import CheckpointError, MissingExtraError, PromptError, SpecError
from microforge.hf_text_encoder import HuggingFaceTextEncoder, HuggingFaceTokenizer
from microforge.pipeline import MicroForgePipeline
from microforge.vae import MicroForgeVAE

LENGTH, BOS, EOS = 16, 256, 257
KINDS = ("clip", "gemma2", "bert")
SHAPE: dict[str, Any] = {
    "vocab_size": 258, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": EOS, "max_position_embeddings": 24,
}  # fmt: skip


def byte_tokenizer() -> Tokenizer:
    """A token for every byte, between ``<bos>`` and ``<eos>``; ``<eos>`` also pads, as in CLIP."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    generator = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(alphabet)}, merges=[]))
    generator.add_special_tokens(["<bos>", "<eos>"])
    generator.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    generator.decoder = decoders.ByteLevel()
    generator.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", BOS), ("<eos>", EOS)]
    )
    return generator


@pytest.fixture
def tokenizer() -> HuggingFaceTokenizer:
    generator = byte_tokenizer()
    generator.enable_padding(pad_id=EOS, pad_token="<eos>", length=LENGTH)
    return HuggingFaceTokenizer(generator)


@pytest.fixture
def library() -> Any:
    return pytest.importorskip("transformers")


def model_of(library: Any, kind: str) -> Any:
    torch.manual_seed(0)
    if kind == "clip":
        return library.CLIPTextModel(library.CLIPTextConfig(**SHAPE))
    if kind == "bert":
        return library.BertModel(library.BertConfig(**SHAPE))
    config = library.Gemma2Config(**SHAPE, num_key_value_heads=2, head_dim=8, sliding_window=5)
    return library.Gemma2Model(config)


def test_tokens_have_one_length_with_special_tokens_first_and_last(tokenizer: HuggingFaceTokenizer) -> None:
    encoded = tokenizer.encode("red")
    assert (
        encoded.ids.shape == (LENGTH,) and encoded.ids.dtype == np.int64 and encoded.mask.dtype == np.float32
    )
    assert encoded.ids[0] == BOS and list(encoded.ids[4:]) == [EOS] * (LENGTH - 4)
    assert encoded.mask.sum() == 5 and not encoded.truncated and tokenizer.decode(encoded.ids) == "red"


def test_text_that_does_not_fit_is_cut_before_the_end_token(tokenizer: HuggingFaceTokenizer) -> None:
    encoded = tokenizer.encode("a red circle and a star", max_length=8)
    assert encoded.truncated and encoded.ids.shape == (8,) and encoded.ids[-1] == EOS and encoded.mask.all()
    assert tokenizer.decode(encoded.ids) == "a red "


def test_a_prompt_cannot_spell_a_special_token(tokenizer: HuggingFaceTokenizer) -> None:
    encoded = tokenizer.encode("a<eos>b")
    assert list(encoded.ids).index(EOS) == 8 and tokenizer.decode(encoded.ids) == "a<eos>b"


def test_an_empty_prompt_is_refused_and_its_own_encoding_is_not(tokenizer: HuggingFaceTokenizer) -> None:
    with pytest.raises(PromptError, match="the prompt is empty"):
        tokenizer.encode("")
    assert (
        list(tokenizer.encode_empty().ids[:3]) == [BOS, EOS, EOS] and tokenizer.encode_empty().mask.sum() == 2
    )


def test_tasks_differ_by_their_prefix(tokenizer: HuggingFaceTokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode("red", "edit").ids) == "edit: red"
    assert tokenizer.decode(tokenizer.encode_empty("inpaint").ids) == "inpaint: "
    with pytest.raises(SpecError, match="unknown task 'paint'; allowed: generate, edit"):
        tokenizer.encode("red", "paint")


def test_a_saved_tokenizer_pads_by_itself(tokenizer: HuggingFaceTokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    again = HuggingFaceTokenizer.from_file(tmp_path / "tokenizer.json")
    assert np.array_equal(again.encode("a star").ids, tokenizer.encode("a star").ids)
    plain = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("a star")
    assert plain.ids == list(again.encode("a star").ids)
    assert plain.attention_mask == list(again.encode("a star").mask)


def test_a_tokenizer_without_a_fixed_length_is_refused(tmp_path: Path) -> None:
    byte_tokenizer().save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(CheckpointError, match="pads to no fixed length"):
        HuggingFaceTokenizer.from_file(tmp_path / "tokenizer.json")


def test_a_missing_transformers_names_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    for read in (HuggingFaceTextEncoder.from_pretrained, HuggingFaceTokenizer.from_pretrained):
        with pytest.raises(MissingExtraError, match=r"transformers is not installed: .*microforge\[text\]"):
            read(tmp_path)


def test_a_model_of_another_class_is_refused() -> None:
    with pytest.raises(
        SpecError, match=r"Linear is not supported .*allowed: BertModel, CLIPTextModel, Gemma2Model"
    ):
        HuggingFaceTextEncoder(nn.Linear(2, 2))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_encoder_gives_the_models_hidden_states(library: Any, kind: str) -> None:
    model = model_of(library, kind)
    encoder = HuggingFaceTextEncoder(model, LENGTH)
    ids, mask = torch.randint(5, 250, (2, LENGTH)), torch.ones(2, LENGTH)
    mask[0, 9:], ids[0, 8:], ids[1, -1] = 0, EOS, EOS
    with torch.no_grad():
        text, pooled = encoder.encode(ids, mask)
        expected = model(input_ids=ids, attention_mask=mask.long())
    states = expected.last_hidden_state
    assert text.shape == (2, LENGTH, encoder.embed_dim) and pooled.shape == (2, encoder.embed_dim)
    assert torch.allclose(text * mask[..., None], states * mask[..., None], atol=1e-5)
    mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    assert torch.allclose(pooled, expected.pooler_output if kind == "clip" else mean, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_encoder_ignores_padding(library: Any, kind: str) -> None:
    encoder = HuggingFaceTextEncoder(model_of(library, kind), LENGTH)
    ids, mask = torch.randint(5, 250, (1, 6)), torch.ones(1, 6)
    with torch.no_grad():
        text, pooled = encoder.encode(ids, mask)
        padded = torch.cat([ids, torch.full((1, 10), 99)], 1), torch.cat([mask, torch.zeros(1, 10)], 1)
        again, pooled_again = encoder.encode(*padded)
    assert torch.allclose(again[:, :6], text, atol=1e-5) and torch.allclose(pooled_again, pooled, atol=1e-5)


@pytest.mark.slow
def test_length_is_limited_by_the_model(library: Any) -> None:
    model = model_of(library, "clip")
    assert HuggingFaceTextEncoder(model).spec.max_length == SHAPE["max_position_embeddings"]
    with pytest.raises(SpecError, match="length is 25; this model allows 4 to 24 tokens"):
        HuggingFaceTextEncoder(model, 25)


@pytest.mark.slow
def test_of_a_whole_clip_the_text_encoder_is_loaded(library: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    vision = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": 32, "patch_size": 16,
    }  # fmt: skip
    whole = library.CLIPModel(library.CLIPConfig(text_config=SHAPE, vision_config=vision, projection_dim=8))
    whole.save_pretrained(tmp_path)
    encoder = HuggingFaceTextEncoder.from_pretrained(tmp_path, LENGTH)
    assert encoder.family.name == "clip" and encoder.embed_dim == SHAPE["hidden_size"]
    expected = whole.text_model.embeddings.token_embedding.weight
    (weight,) = (value for name, value in encoder.model.named_parameters() if "token_embedding" in name)
    assert torch.equal(weight, expected)


@pytest.mark.slow
def test_damaged_or_foreign_folders_are_one_line(library: Any, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    read = HuggingFaceTextEncoder.from_pretrained
    with pytest.raises(
        CheckpointError, match="is no folder; give the folder of a transformers model, or a hub"
    ):
        read(folder)
    model_of(library, "bert").save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(CheckpointError, match=r"weights are missing .*encoder\.layer\.2\."):
        read(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(
        SpecError, match=r"architecture 't5' is not supported .*allowed: bert, clip, clip_text_model"
    ):
        read(folder)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cannot be read as a text encoder: ") as caught:
        read(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_weights_as_pickle_are_refused(library: Any, tmp_path: Path) -> None:
    model = model_of(library, "bert")
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"cannot be read as a text encoder: .*safetensors"):
        HuggingFaceTextEncoder.from_pretrained(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("prompt", ["red", "a red circle left of a blue square"])
def test_tokens_are_those_of_transformers(library: Any, tmp_path: Path, prompt: str) -> None:
    reference = library.PreTrainedTokenizerFast(
        tokenizer_object=byte_tokenizer(), bos_token="<bos>", eos_token="<eos>", pad_token="<eos>", padding_side="left"
    )  # fmt: skip
    reference.save_pretrained(tmp_path)
    encoded = HuggingFaceTokenizer.from_pretrained(tmp_path, LENGTH).encode(prompt)
    expected = reference(
        prompt, max_length=LENGTH, padding="max_length", padding_side="right", truncation=True
    )
    assert list(encoded.ids) == expected["input_ids"] and list(encoded.mask) == expected["attention_mask"]


@pytest.mark.slow
def test_the_pipeline_generates_with_a_clip_text_encoder_and_the_prompt_matters(
    library: Any, pipeline: MicroForgePipeline, tokenizer: HuggingFaceTokenizer
) -> None:
    encoder = HuggingFaceTextEncoder(model_of(library, "clip"), LENGTH)
    spec = replace(pipeline.spec, text_encoder=encoder.spec)
    torch.manual_seed(0)
    generator = MicroForgePipeline(
        MicroForgeVAE(spec.vae), build_backbone(spec), encoder, build_planner(spec), tokenizer, spec
    )
    for parameter in (*generator.denoiser.parameters(), *generator.vae.parameters()):
        if not bool(parameter.any()):
            nn.init.normal_(parameter, std=0.1)
    red, blue = generator.text2img("a red circle", seed=1), generator.text2img("two blue", seed=1)
    assert red.shape == (1, 3, *spec.native_size) and bool(torch.isfinite(red).all())
    assert torch.equal(red, generator.text2img("a red circle", seed=1))
    assert not torch.allclose(red, blue, atol=1e-3), "the prompt changes the image"
    edits = [generator.edit(red, words, seed=1) for words in ("bluer", "redder")]
    assert edits[0].shape == red.shape and not torch.allclose(edits[0], edits[1], atol=1e-4)
