"""Golden files that every runtime replays, and the table of runtimes that pass (conformance/CONFORMANCE.md)."""
