"""Fuzzed manifests: each loads, or is refused in one line; none takes memory out of proportion or hangs.

A few hundred examples run by default; ``MANIFEST_FUZZ=10000 pytest tests/microforge/bundle/test_manifest_fuzz.py``
runs as many as are named. A manifest that loads is also read as a runtime reads it: sampler starts, stages, branches.
"""

from __future__ import annotations

import copy
import json
import os
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from microforge.bundle.files import parse_manifest
from microforge.errors import BundleError
from tests.microforge.bundle.manifests import version1_values, version2_values

EXAMPLES = int(os.environ.get("MANIFEST_FUZZ", "300"))
#: Bytes of memory for a byte of manifest, and for any manifest; seconds for any.
PER_BYTE, BASE, SECONDS = 100, 8 << 20, 5.0
MANIFESTS = (version1_values(), version2_values())
FUZZ = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))

scalars = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=40)
    | st.sampled_from([0, -1, 1, 2**20, 2**26, 2**31, 2**53, 2**64, 1e-308, 1e308, "", "..", "\n", "zeros", "encoded"])
)  # fmt: skip
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=8), inner, max_size=4), max_leaves=12
)  # fmt: skip


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of everything in JSON values."""
    yield path
    children = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, child in children:
        yield from _places(child, (*path, key))


PLACES = tuple([path for path in _places(manifest) if path] for manifest in MANIFESTS)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A whole manifest with up to five changes: values replaced, dropped, repeated, exchanged, or new keys."""
    which = draw(st.integers(0, 1))
    manifest: Any = copy.deepcopy(MANIFESTS[which])
    for _ in range(draw(st.integers(1, 5))):
        path = draw(st.sampled_from(PLACES[which]))
        other = draw(st.sampled_from(PLACES[which]))
        kind = draw(st.sampled_from(["replace", "drop", "repeat", "exchange", "add"]))
        parent = _at(manifest, path[:-1])
        if parent is None or not _has(parent, path[-1]):
            continue
        if kind == "replace":
            parent[path[-1]] = draw(values)
        elif kind == "drop":
            del parent[path[-1]]
        elif kind == "exchange":
            parent[path[-1]] = copy.deepcopy(_at(manifest, other))
        elif kind == "repeat" and isinstance(parent, list):
            parent.extend(
                copy.deepcopy(parent[path[-1]]) for _ in range(draw(st.sampled_from([1, 3, 10, 1200])))
            )
        elif kind == "add" and isinstance(parent, dict):
            parent[draw(st.text(max_size=10))] = draw(values)
    return json.dumps(manifest).encode("utf-8", "surrogatepass")


def _has(parent: Any, key: Any) -> bool:
    if isinstance(parent, dict):
        return key in parent
    return isinstance(parent, list) and isinstance(key, int) and key < len(parent)


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        if not _has(value, key):
            return None
        value = value[key]
    return value


def _judge(data: bytes) -> None:
    """Load ``data``; raises where it is neither accepted nor refused as it must be."""
    tracemalloc.start()
    start = time.perf_counter()
    try:
        manifest = parse_manifest(data)
        for name in manifest.tasks:
            manifest.stages(name)
            manifest.active_branches(name)
        for table in manifest.samplers:
            table.starts()
    except BundleError as error:
        text = str(error)
        assert text.startswith("manifest.json") and text.isprintable() and len(text) < 800, text
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < BASE + PER_BYTE * len(data), f"{peak:,} bytes for a manifest of {len(data):,}"
    assert time.perf_counter() - start < SECONDS


@FUZZ
@given(mutated())
def test_a_mutated_manifest_loads_or_is_refused_in_one_line(data: bytes) -> None:
    _judge(data)


@settings(FUZZ, max_examples=max(EXAMPLES // 10, 20))
@given(st.binary(max_size=300) | values.map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass")))
def test_anything_else_is_refused_in_one_line(data: bytes) -> None:
    _judge(data)


@settings(FUZZ, max_examples=max(EXAMPLES // 10, 20))
@given(st.integers(0, 1), st.data())
def test_a_manifest_with_damaged_bytes_loads_or_is_refused_in_one_line(
    which: int, data: st.DataObject
) -> None:
    text = bytearray(json.dumps(MANIFESTS[which]).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    _judge(bytes(text))
