"""Which stickers training never sees: by the hash of their names, so that a larger set changes nothing for the others.

``held_out_picture`` keeps one style of a subject from every stage (the subject is seen in its other styles): a model that
draws it has composed. ``held_out_subject`` keeps a subject in all its styles from the autoencoder alone, which needs no
name to reconstruct a picture: what it does there, it does for pictures of a kind it has never seen. Colours of a subject
and pairs of subjects are held out as pictures are.
"""

from __future__ import annotations

import hashlib

#: Shares of what there is of each kind that is held out.
PICTURE_SHARE, SUBJECT_SHARE, COLOR_SHARE, PAIR_SHARE = 0.06, 0.03, 0.10, 0.05


def held_out_picture(subject: str, style: str) -> bool:
    """Whether no stage trains on ``subject`` in ``style``."""
    return _fraction("picture", subject, style) < PICTURE_SHARE


def held_out_subject(subject: str) -> bool:
    """Whether the autoencoder trains on no picture of ``subject``."""
    return _fraction("subject", subject) < SUBJECT_SHARE


def held_out_color(subject: str, color: str) -> bool:
    """Whether no stage trains on ``subject`` turned to ``color``."""
    return _fraction("color", subject, color) < COLOR_SHARE


def held_out_pair(first: str, second: str) -> bool:
    """Whether no stage trains on an image with both subjects; the order does not count."""
    return first != second and _fraction("pair", *sorted((first, second))) < PAIR_SHARE


def _fraction(*words: str) -> float:
    """A fixed number in [0, 1) for ``words``."""
    digest = hashlib.sha256("\0".join(words).encode("utf-8")).digest()
    return int.from_bytes(digest[:8], "big") / 2.0**64
