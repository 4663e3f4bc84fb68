#!/usr/bin/env bash
# Measures a scenario, holds it against its baseline and writes the report:
# what action.yml and the GitLab recipe have in common. Everything comes from
# the environment; docs/ci.md lists it.
set -euo pipefail

here="$(cd "$(dirname "$0")/.." && pwd)"
: "${SCENARIO:?name a scenario file in SCENARIO}"
baseline="${BASELINE:-results/baselines}"
results="${RESULTS:-unionbench-results}"
inconclusive="${INCONCLUSIVE:-fail}"
output="${GITHUB_OUTPUT:-/dev/null}"

program="${PROGRAM:-}"
if [ -z "$program" ]; then
  program="$(cd "$here" && cargo xtask build)"
fi

run=("$program" run "$SCENARIO" --results "$results" --quiet --format md)
if [ -n "${ROUNDS:-}" ]; then run+=(--rounds "$ROUNDS"); fi
# Each kernel gives a record of its own, because each has its own baseline.
if [ -n "${LAB_KERNELS:-}" ]; then
  for kernel in $LAB_KERNELS; do "${run[@]}" --lab --kernel "$kernel"; done >"$results.md"
else
  "${run[@]}" >"$results.md"
fi

# The page is there whatever the verdict.
"$program" report "$results" -o "$results/report.html"
echo "report=$results/report.html" >>"$output"

gate=("$program" gate --baseline "$baseline" --top-up "${TOP_UP:-0}" --format md)
if [ -n "${BUDGET:-}" ]; then gate+=(--budget "$BUDGET"); fi
code=0
"${gate[@]}" "$results" || code=$?

case $code in
  0) verdict=pass ;;
  3) verdict=regression ;;
  4) verdict=inconclusive ;;
  5) verdict=unsupported ;;
  *) verdict=error ;;
esac
echo "verdict=$verdict" >>"$output"
if [ "$code" = 4 ] && [ "$inconclusive" = warn ]; then
  echo "::warning::unionbench: inconclusive"
  code=0
fi
exit "$code"
