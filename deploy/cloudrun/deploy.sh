#!/usr/bin/env bash
# Builds the image and deploys it to Google Cloud Run: PROJECT_ID=… deploy/cloudrun/deploy.sh
#
#   gateway                     a Cloud Run service (HTTP, scales by requests)
#   contacts, calls, webhooks   worker pools: they take their work from NATS and have no port to call
#   migrate, streams            jobs, run to their end before the new version serves; where CHANGELOG.md asks for it, stop
#                               the worker pools and the service first (instances 0)
#
# Before the first run, once:
#   - a service account for $SERVICE_ACCOUNT: gcloud iam service-accounts create boostedcalls
#   - an Artifact Registry repository: gcloud artifacts repositories create boostedcalls --repository-format=docker \
#       --location=$REGION
#   - a Postgres (Cloud SQL, Supabase, …) and a NATS with JetStream, both reachable from $NETWORK. Cloud Run has no disk
#     that lasts, so NATS cannot run there: three small VMs, GKE or Synadia Cloud;
#   - in Secret Manager, readable by $SERVICE_ACCOUNT: JWT_SECRET, CALL_SIGNING_SECRET, VAPI_API_KEY, VAPI_WEBHOOK_SECRET;
#     the passwords of the users in deploy/nats.conf: NATS_ADMIN_PASSWORD, NATS_GATEWAY_PASSWORD, NATS_CONTACTS_PASSWORD,
#     NATS_CALLS_PASSWORD, NATS_WEBHOOKS_PASSWORD; and for the database DATABASE_OWNER_URL (with the owner's user and
#     password, for the migration alone), DATABASE_URL (the same without them) and DB_GATEWAY_PASSWORD,
#     DB_CONTACTS_PASSWORD, DB_CALLS_PASSWORD, which the migration gives to the services' roles.
#
# Keys of access tokens that can be changed (README: make keys): put the file into Secret Manager and name that secret in
# JWT_KEYS_SECRET; JWT_SECRET is not read then. After each step of a change add the file as a new version.
set -euo pipefail

: "${PROJECT_ID:?name your project: PROJECT_ID=…}"
: "${NATS_URL:?the addresses of NATS, without credentials: nats://10.0.0.2:4222,nats://10.0.0.3:4222}"
: "${VAPI_WEBHOOK_URL:?the public address of the webhook: https://your-host/api/calls/webhook/}"
REGION=${REGION:-asia-south1}
NETWORK=${NETWORK:-default}
SUBNET=${SUBNET:-default}
SERVICE_ACCOUNT=${SERVICE_ACCOUNT:-boostedcalls@$PROJECT_ID.iam.gserviceaccount.com}
TAG=${TAG:-$(git rev-parse --short HEAD)}
IMAGE=$REGION-docker.pkg.dev/$PROJECT_ID/boostedcalls/boostedcalls:$TAG

database=DATABASE_URL=DATABASE_URL:latest
owner=DATABASE_URL=DATABASE_OWNER_URL:latest
gateway_role=DB_GATEWAY_PASSWORD=DB_GATEWAY_PASSWORD:latest
contacts_role=DB_CONTACTS_PASSWORD=DB_CONTACTS_PASSWORD:latest
calls_role=DB_CALLS_PASSWORD=DB_CALLS_PASSWORD:latest
# The addresses have commas between them, so the list of variables cannot.
address=^;^NATS_URL=$NATS_URL
signing=JWT_SECRET=JWT_SECRET:latest
keys_file=
if [ -n "${JWT_KEYS_SECRET:-}" ]; then
    signing=/etc/boostedcalls/jwt/keys.json=$JWT_KEYS_SECRET:latest
    keys_file=";JWT_KEYS_FILE=/etc/boostedcalls/jwt/keys.json"
fi
password() { echo "NATS_$1_PASSWORD=NATS_$1_PASSWORD:latest"; }
where=(--project="$PROJECT_ID" --region="$REGION")
# NATS and the database have private addresses.
common=(--image="$IMAGE" --service-account="$SERVICE_ACCOUNT"
    --network="$NETWORK" --subnet="$SUBNET" --vpc-egress=private-ranges-only)

cd "$(dirname "$0")/../.."
docker build --platform linux/amd64 --tag "$IMAGE" .
docker push "$IMAGE"

gcloud run jobs deploy boostedcalls-migrate "${where[@]}" "${common[@]}" \
    --args=migrate --set-secrets="$owner,$gateway_role,$contacts_role,$calls_role" --execute-now --wait

gcloud run jobs deploy boostedcalls-streams "${where[@]}" "${common[@]}" \
    --args=streams --set-env-vars="$address" --set-secrets="$(password ADMIN)" --execute-now --wait

gcloud run worker-pools deploy boostedcalls-contacts "${where[@]}" "${common[@]}" \
    --args=contacts --instances=1 --set-env-vars="$address" --set-secrets="$database,$contacts_role,$(password CONTACTS)"

gcloud run worker-pools deploy boostedcalls-calls "${where[@]}" "${common[@]}" \
    --args=calls --instances=2 --set-env-vars="$address;VAPI_WEBHOOK_URL=$VAPI_WEBHOOK_URL" \
    --set-secrets="$database,$calls_role,$(password CALLS),VAPI_API_KEY=VAPI_API_KEY:latest,VAPI_WEBHOOK_SECRET=VAPI_WEBHOOK_SECRET:latest,CALL_SIGNING_SECRET=CALL_SIGNING_SECRET:latest"

gcloud run worker-pools deploy boostedcalls-webhooks "${where[@]}" "${common[@]}" \
    --args=webhooks --instances=2 --set-env-vars="$address" --set-secrets="$(password WEBHOOKS)"

# One instance always runs: a webhook must not wait for a cold start. No SPOOL_DIR: without a disk that lasts, webhooks
# that come while NATS or the webhooks service is away are answered 503; calls then learn their results by asking. Only
# PORT is reached from outside: /metrics and /docs are not.
# Requests come from Cloud Run's own front end, at a link-local address; behind a load balancer name that one too.
gcloud run deploy boostedcalls "${where[@]}" "${common[@]}" \
    --allow-unauthenticated --min-instances=1 \
    --set-env-vars="$address;TRUSTED_PROXIES=169.254.0.0/16;OPERATIONS_PORT=8081$keys_file" \
    --set-secrets="$database,$gateway_role,$(password GATEWAY),$signing,VAPI_WEBHOOK_SECRET=VAPI_WEBHOOK_SECRET:latest"
