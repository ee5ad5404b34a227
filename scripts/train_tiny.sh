#!/usr/bin/env bash
# Train a teacher like the shipped one, distil its 4-step student, evaluate it and build an INT8 bundle.
#
#   scripts/train_tiny.sh runs/tiny             # resumes where an earlier call stopped
#   scripts/train_tiny.sh runs/tiny --dry-run   # the plan, parameters and memory; writes nothing
#
# CURRICULUM names another curriculum for the teacher, PROMPTS the number of prompts of the evaluation, and
# DISTILL further options of the distillation, as in DISTILL='--steps 1000'. One GPU takes hours; two CPU cores take days.
set -euo pipefail
cd "$(dirname "$0")/.."

out=${1:?usage: scripts/train_tiny.sh RUN [--dry-run]}
curriculum=${CURRICULUM:-scripts/train_tiny/teacher.toml}
prompts=${PROMPTS:-500}
read -r -a distill <<<"${DISTILL:-}"

if [ "${2:-}" = "--dry-run" ]; then
    mf-train all --settings "$curriculum" --out "$out/teacher" --bf16 --dry-run
    exit
fi

resume() { if [ -e "$1" ]; then echo "--resume"; fi; } # an option for a folder that holds a run

# shellcheck disable=SC2046 # no option, or one
mf-train all --settings "$curriculum" --out "$out/teacher" --bf16 $(resume "$out/teacher")
teacher=$(find "$out/teacher" -mindepth 2 -maxdepth 2 -name checkpoint | sort -V | tail -n 1)

if [ ! -e "$out/student" ]; then
    # shellcheck disable=SC2046
    mf-export distill "$teacher" --out "$out/student" --bf16 --filter-samples --set int8_grid=true "${distill[@]}" \
        $(resume "$out/student.run")
fi

mf-eval "$out/student" --prompts "$prompts" --out "$out/scores.json" --force
mf-export build "$out/student" --out "$out/student.mfb" --precision int8 --force
