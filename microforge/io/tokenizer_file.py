"""A stranger's ``tokenizer.json``, opened so that no prompt can grow without bound or end the process. No torch.

The library runs what the file says: text replaced by longer text, ids padded to any length, parts that stop it with a
panic. So the parts are checked first; the file's own padding and truncation, which a model's frame replaces, are left out.

The first tokens of a very long text are found without tokenizing all of it. Two facts make the result exact, not
approximate. A pre-token depends on the text before its end and on a few characters after it. And within a pre-token no
merge crosses a boundary of the result, so the tokens before a boundary are those that byte-pair encoding gives for the
text before it alone; a boundary lies in every stretch as long as the longest token.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers

from microforge.io.quiet import quiet_stderr

#: Most steps of one kind (normalizer, pre-tokenizer ...), and times that they may lengthen a text together.
MAX_STEPS, MAX_GROWTH = 32, 64
#: Most tokens that a prompt may be padded to.
MAX_LENGTH = 16_384
#: Longest pattern or replacement in characters.
_MAX_PATTERN = 2048
#: Keys of the steps of a sequence.
_LISTS = ("normalizers", "pretokenizers", "decoders", "processors")
#: Texts that every tokenizer must encode: a file that fails on them fails on any prompt.
_PROBES = ("a red circle", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!", "É 日本 \U0001f600\n1'll")

#: Longer texts, in characters, are not tokenized to their end.
LONG_TEXT = 10_000
#: Characters that the splitting pattern looks ahead at most, and bytes of a character at most.
_LOOK_AHEAD_BYTES = 4 * 4


class TokenizerFileError(ValueError):
    """A file that is no ``tokenizer.json``, or one that must not be run; one line that begins with a verb."""


def parse_tokenizer(text: str, fixed_length: bool = False) -> Tokenizer:
    """The tokenizer of a ``tokenizer.json``'s ``text``, without padding and truncation.

    Args:
        fixed_length: keep padding on the right to one length, and the cut at that length, if the file has them.

    Raises:
        TokenizerFileError: when it is not one, or could lengthen a text out of proportion.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TokenizerFileError(f"is not a tokenizer.json: it is not JSON ({_one_line(error)})") from None
    if not isinstance(values, dict):
        raise TokenizerFileError("is not a tokenizer.json: it holds no JSON object")
    _check(values)
    with quiet_stderr():  # a panic prints itself before it is raised
        tokenizer = _opened(json.dumps({**values, "padding": None, "truncation": None}))
    if fixed_length:
        _fix_length(tokenizer, values.get("padding"))
    return tokenizer


def _fix_length(tokenizer: Tokenizer, padding: Any) -> None:
    """Pad and cut at the one length of ``padding``, as the file has it; nothing for padding of another kind."""
    try:
        length, pad_id, token = padding["strategy"]["Fixed"], padding["pad_id"], padding["pad_token"]
    except (TypeError, KeyError):
        return
    if not isinstance(length, int) or not 1 <= length <= MAX_LENGTH:
        raise TokenizerFileError(f"pads to {str(length)[:40]} tokens; allowed: 1 to {MAX_LENGTH}")
    if not isinstance(token, str) or tokenizer.token_to_id(token) != pad_id:
        raise TokenizerFileError("pads with a token that it does not have")
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(direction="right", pad_id=pad_id, pad_token=token, length=length)


def _opened(text: str) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_str(text)
        if tokenizer.get_vocab_size() == 0:
            raise TokenizerFileError("is not a tokenizer.json: its vocabulary is empty")
    except TokenizerFileError:
        raise
    except BaseException as error:
        raise _refusal("is not a tokenizer.json", error) from None
    for probe in _PROBES:
        token_ids(tokenizer, probe)
    return tokenizer


def token_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of ``text`` without special tokens.

    Raises:
        TokenizerFileError: when the tokenizer's own patterns or tables fail on it.
    """
    try:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)
    except BaseException as error:
        raise _refusal("cannot encode a text", error) from None


def _refusal(what: str, error: BaseException) -> BaseException:
    """The error to raise: a panic of the library is no ``Exception``, interrupts are none of its errors."""
    if isinstance(error, Exception) or type(error).__name__ == "PanicException":
        return TokenizerFileError(f"{what}: {_one_line(error)}")
    return error


def _check(values: dict[str, Any]) -> None:
    growth = 1.0
    for part in ("normalizer", "pre_tokenizer", "decoder", "post_processor"):
        steps = list(_steps(values.get(part)))
        if len(steps) > MAX_STEPS:
            raise TokenizerFileError(f"has {len(steps)} steps in its {part}; at most {MAX_STEPS} are allowed")
        for step in steps:
            growth *= _growth(step)
    if growth > MAX_GROWTH:
        raise TokenizerFileError(
            f"could make a text {growth:.3g} times longer; at most {MAX_GROWTH} times are allowed"
        )


def _steps(value: Any) -> Iterator[dict[str, Any]]:
    """Every step of a part, those of sequences one by one; not deeper than the JSON reader goes."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            lists = [inner for key in _LISTS if isinstance(inner := item.get(key), list)]
            pending.extend(step for inner in lists for step in inner)
            if not lists:
                yield item


def _growth(step: dict[str, Any]) -> float:
    """How many times longer a step makes a text at most."""
    kind, content, pattern = step.get("type"), step.get("content"), step.get("pattern")
    texts = [item for item in (*_texts(pattern), content, step.get("prepend")) if isinstance(item, str)]
    if any(len(item) > _MAX_PATTERN for item in texts):
        raise TokenizerFileError(f"has a pattern or replacement of more than {_MAX_PATTERN} characters")
    if kind in ("Replace", "Split") and "" in _texts(pattern):
        raise TokenizerFileError(f"has an empty pattern in a {kind} step")
    if kind == "Replace" and isinstance(content, str):
        shortest = min((len(item) for item in _texts(pattern, "String")), default=1)
        return max(1.0, math.ceil(len(content) / shortest))
    return 1.0


def _texts(pattern: Any, *kinds: str) -> Sequence[str]:
    if isinstance(pattern, str):
        return (pattern,)
    if not isinstance(pattern, dict):
        return ()
    return [text for kind, text in pattern.items() if isinstance(text, str) and (not kinds or kind in kinds)]


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def first_tokens(tokenizer: Tokenizer, text: str, count: int, longest_token: int) -> list[int] | None:
    """At least ``count`` first ids of ``text``, exactly as ``tokenizer`` gives them; None where they are not certain.

    Args:
        longest_token: bytes of the longest token of the vocabulary.

    Returns:
        None for a text with fewer than ``count`` tokens in its beginning, for a tokenizer that is no byte-level BPE,
        and for the rare word whose first tokens depend on its distant end.
    """
    model, splitter = tokenizer.model, tokenizer.pre_tokenizer
    if not isinstance(model, models.BPE) or not isinstance(splitter, pre_tokenizers.ByteLevel):
        return None
    if model.dropout or model.ignore_merges or tokenizer.normalizer is None:
        return None
    length = (count + 1) * longest_token + 2 * _LOOK_AHEAD_BYTES
    beginning = tokenizer.normalizer.normalize_str(_before_ascii(text, 2 * length))[:length]
    if len(beginning) < length:
        return None
    ids: list[int] = []
    words = [word for word, _ in splitter.pre_tokenize_str(beginning)]  # a character stands for a byte
    certain = sum(map(len, words)) - _LOOK_AHEAD_BYTES
    for word in words:
        if len(word) > certain:
            rest = _first_of_word(model, word[:certain], count - len(ids), longest_token)
            return None if rest is None else ids + rest
        ids += [token.id for token in model.tokenize(word)]
        certain -= len(word)
        if len(ids) >= count:
            return ids
    return None


def _before_ascii(text: str, length: int) -> str:
    """``text`` up to an ASCII character near ``length``: composition (NFC) never joins those to what precedes them."""
    for end in range(min(length, len(text) - 1), length // 2, -1):
        if text[end].isascii():
            return text[:end]
    return text


def _first_of_word(model: models.BPE, beginning: str, count: int, longest_token: int) -> list[int] | None:
    """The first ``count`` ids of a word that goes on after ``beginning``, where its end cannot change them."""
    ends = range(len(beginning), max(len(beginning) - longest_token, 0), -1)  # one of them is a token's end
    results = {tuple(token.id for token in model.tokenize(beginning[:end])[:count]) for end in ends}
    if len(results) != 1:
        return None
    (ids,) = results
    return list(ids) if len(ids) == count else None
