#!/usr/bin/env bash
# Stops the clock of one service for 20 seconds: long enough for the broker to think that it is dead.   ./task chaos:pause -- pay
. "$(dirname "$0")/lib.sh"
victim=${1:-pay}

say "30 orders; then $victim gets SIGSTOP. It holds messages, connections and transactions, and knows of nothing"
order 30
kill -STOP "$(pid "$victim")"
trap 'kill -CONT "$(pid "$victim")"' EXIT
[ "$victim" = order ] || order 30
sleep 20
say "$victim goes on as if nothing had happened; the broker has given its messages back to the queue meanwhile"
kill -CONT "$(pid "$victim")"
trap - EXIT
at_rest
