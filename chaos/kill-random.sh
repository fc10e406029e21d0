#!/usr/bin/env bash
# Kills a random service every 2 seconds, for half a minute.   ./task chaos:kill-random
. "$(dirname "$0")/lib.sh"

say "Orders come all the time; every 2 s a service dies by SIGKILL and is started again"
order 300 >/dev/null &
for _ in $(seq 15); do
  victim=${services[RANDOM % 5]}
  kill -9 "$(pid "$victim")"
  echo "  $victim"
  up
  sleep 2
done
wait
at_rest
