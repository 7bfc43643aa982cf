#!/usr/bin/env bash
# On a spot machine of AWS: waits for the notice that it is taken in two minutes, then has Ray drain it: its trials save and go on
# elsewhere, and no other starts there. cluster.yaml starts it on every worker. Not tested on AWS: a test gives the notice itself.
set -uo pipefail
metadata=${METADATA_URL:-http://169.254.169.254}/latest
while sleep "${INTERVAL_S:-5}"; do
    token=$(curl -sf --max-time 2 -X PUT "$metadata/api/token" -H "X-aws-ec2-metadata-token-ttl-seconds: 60") || continue
    curl -sf --max-time 2 -H "X-aws-ec2-metadata-token: $token" "$metadata/meta-data/spot/instance-action" && break
done
exec ray drain-node --reason DRAIN_NODE_REASON_PREEMPTION --reason-message "spot notice" --deadline-remaining-seconds 110
