#!/bin/sh
# The cpu-ort table for the quick search spaces of r18 and lite0, and its validation on students that nothing was fitted to:
#
#     sh benchmarks/cpu_table.sh OUT [JDNAS]
#
# Exports first (no quiet machine needed; several minutes), then measures for 20 minutes and validates for 10, which do need one. Each
# step goes on where an earlier run stopped. Leaves OUT/cpu-ort.json, OUT/validation.json and OUT/validation.svg.
set -eu
out=${1:?usage: sh benchmarks/cpu_table.sh OUT [JDNAS]}
jdnas=${2:-jdnas}
space="--target cpu-ort --base r18 --base lite0 --preset quick"
mkdir -p "$out"
# shellcheck disable=SC2086
{
    $jdnas latency prepare "$out/engines" $space --engines 24 --count 52 --jobs "${JOBS:-2}"
    $jdnas latency measure $space --engines 24 --engines-dir "$out/engines" --budget 20m --out "$out/cpu-ort.json"
    $jdnas latency validate $space --count 52 --engines-dir "$out/engines" --budget 10m \
        --table "$out/cpu-ort.json" --out "$out/validation.json"
}
