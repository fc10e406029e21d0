#!/usr/bin/env bash
# Kills RabbitMQ while orders are under way, or restarts it.   ./task chaos:broker -- restart
. "$(dirname "$0")/lib.sh"
how=${1:-kill}

say "30 orders; then RabbitMQ goes away ($how). 30 more are accepted: what they cause waits in the outboxes"
order 30
case $how in
  kill) kill -9 "$(pid rabbitmq)" ;;
  restart) kill -TERM "$(pid rabbitmq)" ;;
  *) echo "kill or restart, not $how" >&2; exit 2 ;;
esac
order 30
gone rabbitmq
say "RabbitMQ is started again; the services come back by themselves"
up
at_rest
