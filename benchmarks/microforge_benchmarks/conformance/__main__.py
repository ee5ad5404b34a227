"""``python -m microforge_benchmarks.conformance OUT`` writes the golden files."""

from microforge_benchmarks.conformance.cli import main

if __name__ == "__main__":
    main()
