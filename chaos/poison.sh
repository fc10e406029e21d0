#!/usr/bin/env bash
# Sends a message to a service that can never be handled.   ./task chaos:poison -- pay
. "$(dirname "$0")/lib.sh"
victim=${1:-pay}
broker=$(where rabbitmq)
id=$(cat /proc/sys/kernel/random/uuid)

say "Into the queue of $victim goes half a message, and then 10 orders"
curl -s -o /dev/null -u "hotchoc:${RABBITMQ_ADMIN_PASSWORD:-hotchoc}" "$broker/api/exchanges/%2F/$victim.retry/publish" -d '{"routing_key": "'"$victim"'",
  "properties": {"message_id": "'"$id"'", "type": "order.placed", "delivery_mode": 2}, "payload": "{\"order_id\":", "payload_encoding": "string"}'
order 10
until hotchoc dead show "$id" >/dev/null 2>&1; do sleep 0.2; done
sleep 6 # the broker counts its messages every 5 s
at_rest --poison "$id"
say "It was set aside, with the reason; its neighbours were handled"
hotchoc dead show "$id"
say "Nobody can help this one: the dead letters of $victim are deleted"
curl -s -o /dev/null -u "hotchoc:${RABBITMQ_ADMIN_PASSWORD:-hotchoc}" -X DELETE "$broker/api/queues/%2F/$victim.dead/contents"
