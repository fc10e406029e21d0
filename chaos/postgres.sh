#!/usr/bin/env bash
# Kills Postgres while orders are under way.   ./task chaos:postgres
. "$(dirname "$0")/lib.sh"

say "30 orders; then Postgres dies by SIGKILL. 10 more are told to try again: nothing is promised that is not on disk"
order 30
kill -9 "$(pid postgres)"
order 10
say "Postgres is started again, replays its log, and the services go on"
up
at_rest
