"""The first tokens of a very long text, without tokenizing all of it. No torch.

Two facts make the result exact, not approximate. A pre-token depends on the text before its end and on a few characters
after it. And within a pre-token no merge crosses a boundary of the result, so the tokens before a boundary are those
that byte-pair encoding gives for the text before it alone; a boundary lies in every stretch as long as the longest token.
"""

from __future__ import annotations

from tokenizers import Tokenizer, models, pre_tokenizers

#: Longer texts, in characters, are not tokenized to their end.
LONG_TEXT = 10_000
#: Characters that the splitting pattern looks ahead at most, and bytes of a character at most.
_LOOK_AHEAD_BYTES = 4 * 4


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
