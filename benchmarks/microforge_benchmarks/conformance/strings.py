"""The 10,000 strings that every tokenizer is tried on: prompts, and text of many scripts that is hard to tokenize.

Characters are those of Unicode 13 and older: engines, systems and languages know different versions of Unicode, and
later characters have no case and no composition in some of them.
"""

from __future__ import annotations

from microforge_benchmarks.conformance.random_words import RandomWords

COUNT = 10_000
_SEED = 32
#: Ranges of code points, both ends included, all assigned in Unicode 13.
_SCRIPTS: dict[str, tuple[tuple[int, int], ...]] = {
    "latin": ((0x20, 0x7E),),
    "accents": ((0xC0, 0x17F), (0x1E00, 0x1EFF)),
    "greek": ((0x391, 0x3A1), (0x3A3, 0x3CE), (0x1F00, 0x1F15), (0x1F80, 0x1FB4)),
    "cyrillic": ((0x400, 0x481), (0x48A, 0x52F)),
    "armenian and georgian": ((0x531, 0x556), (0x561, 0x587), (0x1C90, 0x1CBA), (0x10D0, 0x10FA)),
    "cherokee": ((0x13A0, 0x13F5), (0xAB70, 0xABBF)),
    "hebrew": ((0x5D0, 0x5EA), (0x591, 0x5C7), (0xFB1D, 0xFB36)),
    "arabic": ((0x621, 0x64A), (0x64B, 0x65F), (0x660, 0x669), (0xFEFB, 0xFEFC)),
    "devanagari": ((0x904, 0x939), (0x93E, 0x94D), (0x958, 0x95F), (0x966, 0x96F)),
    "thai": ((0xE01, 0xE3A), (0xE40, 0xE5B)),
    "han": ((0x4E00, 0x9FA5), (0x3400, 0x4DB5), (0x20000, 0x2A6D6), (0xF900, 0xFA0D)),
    "kana": ((0x3041, 0x3096), (0x30A1, 0x30FA), (0x3099, 0x309C), (0xFF66, 0xFF9D)),
    "hangul": ((0xAC00, 0xD7A3), (0x1100, 0x1112), (0x1161, 0x1175), (0x11A8, 0x11C2)),
    "emoji": ((0x1F300, 0x1F5FF), (0x1F600, 0x1F64F), (0x1F680, 0x1F6C5), (0x1F90C, 0x1F93A), (0x2600, 0x26FF)),
    "joiners": ((0x200B, 0x200F), (0xFE00, 0xFE0F), (0x1F3FB, 0x1F3FF), (0x1F1E6, 0x1F1FF), (0xE0061, 0xE007A)),
    "marks": ((0x300, 0x34E), (0x350, 0x36F), (0x20D0, 0x20DC)),
    "spaces": ((0x9, 0xD), (0x20, 0x20), (0x85, 0x85), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029), (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000)),
    "control": ((0x0, 0x1F), (0x7F, 0x9F), (0x202A, 0x202E), (0x2066, 0x2069), (0xFEFF, 0xFEFF), (0xFFFD, 0xFFFD)),
    "symbols": ((0x2190, 0x23FE), (0x2460, 0x24FF), (0x2153, 0x2188), (0xB2, 0xB3), (0xBC, 0xBE), (0x1D400, 0x1D454), (0xFF01, 0xFF5E)),
    "old and far": ((0x10400, 0x1044F), (0x2C00, 0x2C2E), (0x12000, 0x12010), (0xE000, 0xE010), (0xF0000, 0xF0010)),
}  # fmt: skip
_WORDS = (
    "a", "red", "Blue", "circle", "squares", "left", "of", "don't", "they're", "I'll", "we've", "it's", "3", "42", "1000", "x2",
    "photo", "PHOTO", "naïve", "Straße", "ΟΔΟΣ", "İstanbul", "çiçek", "красный", "круг", "红色", "圆形", "赤い", "빨간", "أحمر",
    "אדום", "लाल", "👩‍👩‍👧", "🏳️‍🌈", "❤️", "...", "--", "?!", "(((", "e\u0301", "<eos>", "<pad>", "<|endoftext|>", "<|startoftext|>", "</w>",
)  # fmt: skip
_SEPARATORS = (" ", " ", " ", "  ", "", ", ", "\n", "\t", "'", " '")
_EDGES = (
    "", " ", "  ", "\n", "'", "'s", "a" * 300, "ab" * 500, " a", "a ", "a  b", "a\u3000b", "\u0130", "\u0130\u0307", "\ufb01", "\u1e9e",
    "\u212b", "\u2126", "\u0344", "\u0958", "\ud55c", "\u1112\u1161\u11ab", "1\u0301", "\u0301", "'S 'Re", "don\u2019t", "\u0000", "a\u0000b",
    "<|endoftext|>a", "a<|startoftext|>b", "<bos><generate>a<eos>",
)  # fmt: skip


def strings() -> tuple[str, ...]:
    """All strings: some by hand, then word salads, single scripts, and mixtures of scripts in turn."""
    random = RandomWords(_SEED)
    makers = (_words, _words, _one_script, _mixture)
    made = [makers[index % len(makers)](random) for index in range(COUNT - len(_EDGES))]
    return (*_EDGES, *made)


def _words(random: RandomWords) -> str:
    parts = []
    for _ in range(1 + random.below(8)):
        parts += [random.choice(_WORDS), random.choice(_SEPARATORS)]
    return "".join(parts)


def _one_script(random: RandomWords) -> str:
    ranges = _SCRIPTS[random.choice(list(_SCRIPTS))]
    return "".join(_character(random, ranges) for _ in range(1 + random.below(16)))


def _mixture(random: RandomWords) -> str:
    scripts = list(_SCRIPTS.values())
    return "".join(_character(random, random.choice(scripts)) for _ in range(1 + random.below(12)))


def _character(random: RandomWords, ranges: tuple[tuple[int, int], ...]) -> str:
    first, last = random.choice(ranges)
    return chr(first + random.below(last - first + 1))
