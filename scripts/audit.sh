#!/usr/bin/env bash
# Lists what the wheel brings with it (an SBOM in CycloneDX form) and looks for known vulnerabilities in it.
#   scripts/audit.sh [FOLDER] [PYTHON]     FOLDER (default build/audit) is made anew; needs a network
# Exit code 0: nothing known; 1: vulnerabilities, packages that were not looked up, or a dependency that the SBOM lacks;
# 3: the advisory service cannot be reached or knows none of the packages (the SBOM is written all the same).
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-build/audit} python=${2:-python3}
rm -rf "$folder"
mkdir -p "$folder"
echo "setting up the tools" >&2
"$python" -m venv "$folder/tools"
"$folder/tools/bin/pip" install --quiet --disable-pip-version-check 'pip-audit==2.10.*' 'cyclonedx-bom==7.*' 'hatchling>=1.26'
echo "building the wheel and installing it alone, with the extra onnx" >&2
"$folder/tools/bin/pip" wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$folder/dist" .
"$python" -m venv --without-pip "$folder/wheel"
wheel=$(ls "$folder"/dist/*.whl)
"$folder/tools/bin/pip" --python "$folder/wheel/bin/python" install --quiet --disable-pip-version-check "$wheel[onnx]"
"$folder/tools/bin/cyclonedx-py" environment --pyproject pyproject.toml --output-reproducible --of JSON \
    -o "$folder/sbom.cdx.json" "$folder/wheel/bin/python"
"$python" scripts/check_sbom.py "$folder/sbom.cdx.json" pyproject.toml onnx
site=$("$folder/wheel/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
echo "asking the advisory service" >&2
timeout 300 "$folder/tools/bin/pip-audit" --progress-spinner off --skip-editable --path "$site" \
    --format json --output "$folder/advisories.json" 2>"$folder/audit.log" || true
if [ ! -s "$folder/advisories.json" ]; then
    echo "error: the advisory service cannot be reached, so nothing was looked up; see $folder/audit.log" >&2
    exit 3
fi
"$python" scripts/check_advisories.py "$folder/advisories.json" microforge
