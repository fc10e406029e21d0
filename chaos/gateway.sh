#!/usr/bin/env bash
# Lets the payment gateway lose every second answer: the money was taken, and nobody heard of it.   ./task chaos:gateway
. "$(dirname "$0")/lib.sh"
gateway=$(where partners)
trouble() { curl -s -o /dev/null -X PUT "$gateway/faults" -d "$1"; }

say "The gateway loses half of its answers, and 30 orders come"
trouble '{"gateway": {"lost_rate": 0.5}}'
trap 'trouble "{}"' EXIT
order 30
order 10 tok_declined
say "It is asked again under the same keys, and takes nothing twice. Now its answers arrive again"
trouble '{}'
at_rest
say "What the gateway has in its books:"
curl -s "$gateway/summary"
