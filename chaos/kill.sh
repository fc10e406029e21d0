#!/usr/bin/env bash
# Kills one service while it works, and starts it again.   ./task chaos:kill -- make
. "$(dirname "$0")/lib.sh"
victim=${1:-pay}

say "30 orders; in the middle of them $victim is killed with SIGKILL, and 30 more find it dead"
order 30
kill -9 "$(pid "$victim")"
order 30
say "$victim is started again: what it had not acked comes to it once more"
up
at_rest
