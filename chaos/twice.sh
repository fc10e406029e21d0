#!/usr/bin/env bash
# Delivers every message twice, some of them much later.   ./task chaos:twice
. "$(dirname "$0")/lib.sh"

say "100 customers of all sorts. Each message comes twice to everybody who hears it: read from the history, sent behind the services' backs"
hotchoc chaos --only duplicate,reorder --duplicates 1 --orders 100 --duration 15s
