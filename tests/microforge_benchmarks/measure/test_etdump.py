"""ExecuTorch's trace becomes one entry per kind of operator."""

from __future__ import annotations

from microforge_benchmarks.measure.etdump import nodes
from microforge_benchmarks.measure.operators import by_kind


def test_events_of_a_kind_are_summed_without_their_containers_and_the_first_evaluation() -> None:
    events = [
        ("Add (ND) #1", [9.0, 1.0, 3.0, 2.0]), ("Add (ND) #2", [9.0, 1.0, 1.0, 1.0]), ("native_call_embedding.out", [0.5]),
        ("DELEGATE_CALL", [30.0, 8.0, 8.0, 8.0]), ("OPERATOR_CALL", [1.0, 1.0]), ("Method::execute", [31.0, 9.0]),
    ]  # fmt: skip
    times = {item.operator: (item.nodes, item.seconds) for item in by_kind("denoiser", nodes(events))}
    assert times == {"Add (ND)": (2, 0.003), "native_call_embedding.out": (1, 0.0005)}
