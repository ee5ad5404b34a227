#!/usr/bin/env bash
# Runs tests that others wrote on our code and writes their counts to docs/external (hours; needs a network).
#   scripts/external.sh [BIN] [CACHE] [SUITE ...]
# BIN is the folder of python (default .venv/bin), CACHE keeps downloads and finished parts (default build/external), so
# that a run that was interrupted goes on. SUITE is images, onnx, executorch or mil; all of them by default.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$(realpath "${1:-.venv/bin}") cache=${2:-build/external} suites=${*:3}
suites=${suites:-images onnx executorch mil}
pillow=pillow-13.0.0 pillow_sha256=cdcd1ba258178f7356d74170c9a81ba4eab6a5d55748bc402a5a2a6fe6be3510
pngsuite=https://github.com/lunapaint/pngsuite pngsuite_commit=8cd768dd0d0063195174d0d01cacbd5a7d1e5605
mil_shards=24
mkdir -p "$cache" docs/external
export PYTHONPATH="$PWD:$PWD/export:$PWD/runtimes:$PWD/benchmarks:$PWD/tests/external"

images() {
    if [ ! -d "$cache/$pillow" ]; then
        "$bin/python" -m pip download --quiet --disable-pip-version-check --no-deps --no-binary :all: \
            --dest "$cache" "${pillow/-/==}"
        echo "$pillow_sha256  $cache/$pillow.tar.gz" | sha256sum --check --quiet
        tar -xzf "$cache/$pillow.tar.gz" -C "$cache"
    fi
    if [ ! -d "$cache/pngsuite" ]; then
        git clone --quiet "$pngsuite" "$cache/pngsuite.part"
        git -C "$cache/pngsuite.part" checkout --quiet "$pngsuite_commit"
        mv "$cache/pngsuite.part" "$cache/pngsuite"
    fi
    "$bin/python" tests/external/image_files.py --pillow "$cache/$pillow/Tests/images" \
        --pngsuite "$cache/pngsuite" --out docs/external/image_files.json --force
}

onnx() {
    "$bin/python" tests/external/onnx_nodes.py --out docs/external/onnx_nodes.json --force
}

executorch() {
    "$bin/python" tests/external/executorch_suite.py --out docs/external/executorch_suite.json --force
}

mil() {
    local tests
    tests=$("$bin/python" -c 'import importlib.util as u; print(u.find_spec("coremltools").submodule_search_locations[0])')
    tests=$tests/converters/mil/mil/ops/tests
    for shard in $(seq 0 $((mil_shards - 1))); do
        [ -f "$cache/mil-$shard.json" ] && continue
        echo "MIL suite, part $((shard + 1)) of $mil_shards" >&2
        rm -f "$cache/mil-$shard.part.json"
        PYMIL_TEST_TARGETS=mlprogram INCLUDE_MIL_FP32_UNIT_TESTS=1 MIL_STRIDE=$mil_shards MIL_OFFSET=$shard \
            MIL_RESULTS="$cache/mil-$shard.part.json" "$bin/python" -m pytest -q -p mil_plugin -p no:cacheprovider \
            -c /dev/null --rootdir "$tests" --import-mode=importlib "$tests" >"$cache/mil-$shard.log" 2>&1 || true
        mv "$cache/mil-$shard.part.json" "$cache/mil-$shard.json"
    done
    "$bin/python" tests/external/mil_summary.py "$cache"/mil-[0-9]*.json --parts "$mil_shards" \
        --out docs/external/mil_operators.json --force
}

failed=""
for suite in $suites; do
    echo "== $suite" >&2
    "$suite" || failed="$failed $suite"
done
[ -z "$failed" ] || { echo "error: defects in:$failed" >&2; exit 1; }
