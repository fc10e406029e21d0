# What the scripts beside share. They need a stack that is up: ./task up.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
run=${RUN:-.run}

hotchoc() { "${HOTCHOC:-bin/hotchoc}" --dir "$run" "$@"; }
up() { local told; told=$(hotchoc up 2>&1) || { echo "$told" >&2; return 1; }; } # start what is dead
say() { printf '\n-- %s\n' "$*"; }
where() { hotchoc status | awk -v name="$1" '$1 == name { print $3 }'; } # the URL of a part
pid() { cat "$run/pid/$1"; }
gone() { while grep -qs "^State:.[^ZX]" "/proc/$(pid "$1")/status"; do sleep 0.1; done; } # a zombie has gone
services=(menu order pay make delivery)

hotchoc status >/dev/null || { echo "The stack is not up, or not well: ./task up" >&2; exit 1; }
shop=$(where order)

# order N [TOKEN]: N customers order a hot chocolate, one after the other.
order() {
  local unanswered=0
  for _ in $(seq "$1"); do
    curl -s -o /dev/null "$shop/orders" -d '{"customer": "chaos", "lines": [{"sku": "classic", "quantity": 1}],
      "payment": {"token": "'"${2:-tok_ok}"'"}, "handover": {"type": "counter"}}' || unanswered=$((unanswered + 1))
  done
  [ "$unanswered" = 0 ] || echo "  $unanswered customers got no answer"
}

# at_rest [OPTION ...]: wait until nothing is on its way any more, and let the audit say whether all is well.
at_rest() {
  say "Nothing is broken any more. When all has come to rest, the audit says:"
  hotchoc audit --wait 60s "$@"
}
