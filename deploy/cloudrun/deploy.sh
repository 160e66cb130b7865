#!/usr/bin/env bash
# Builds the image and deploys it to Google Cloud Run: PROJECT_ID=… deploy/cloudrun/deploy.sh
#
#   gateway                     a Cloud Run service (HTTP, scales by requests)
#   contacts, calls, webhooks   worker pools: they take their work from NATS and have no port to call
#   migrate                     a job, run to its end before the new version serves
#
# Before the first run, once:
#   - a service account for $SERVICE_ACCOUNT: gcloud iam service-accounts create boostedcalls
#   - an Artifact Registry repository: gcloud artifacts repositories create boostedcalls --repository-format=docker \
#       --location=$REGION
#   - a Postgres (Cloud SQL, Supabase, …) and a NATS with JetStream, both reachable from $NETWORK. Cloud Run has no disk
#     that lasts, so NATS cannot run there: three small VMs, GKE or Synadia Cloud;
#   - in Secret Manager, readable by $SERVICE_ACCOUNT: DATABASE_URL, NATS_URL, JWT_SECRET, CALL_SIGNING_SECRET,
#     VAPI_API_KEY, VAPI_WEBHOOK_SECRET.
set -euo pipefail

: "${PROJECT_ID:?name your project: PROJECT_ID=…}"
: "${VAPI_WEBHOOK_URL:?the public address of the webhook: https://your-host/api/calls/webhook/}"
REGION=${REGION:-asia-south1}
NETWORK=${NETWORK:-default}
SUBNET=${SUBNET:-default}
SERVICE_ACCOUNT=${SERVICE_ACCOUNT:-boostedcalls@$PROJECT_ID.iam.gserviceaccount.com}
TAG=${TAG:-$(git rev-parse --short HEAD)}
IMAGE=$REGION-docker.pkg.dev/$PROJECT_ID/boostedcalls/boostedcalls:$TAG

database=DATABASE_URL=DATABASE_URL:latest
nats=NATS_URL=NATS_URL:latest
where=(--project="$PROJECT_ID" --region="$REGION")
# NATS and the database have private addresses.
common=(--image="$IMAGE" --service-account="$SERVICE_ACCOUNT"
    --network="$NETWORK" --subnet="$SUBNET" --vpc-egress=private-ranges-only)

cd "$(dirname "$0")/../.."
docker build --platform linux/amd64 --tag "$IMAGE" .
docker push "$IMAGE"

gcloud run jobs deploy boostedcalls-migrate "${where[@]}" "${common[@]}" \
    --args=migrate --set-secrets="$database" --execute-now --wait

gcloud run worker-pools deploy boostedcalls-contacts "${where[@]}" "${common[@]}" \
    --args=contacts --instances=1 --set-secrets="$database,$nats"

gcloud run worker-pools deploy boostedcalls-calls "${where[@]}" "${common[@]}" \
    --args=calls --instances=2 --set-env-vars="VAPI_WEBHOOK_URL=$VAPI_WEBHOOK_URL" \
    --set-secrets="$database,$nats,VAPI_API_KEY=VAPI_API_KEY:latest,VAPI_WEBHOOK_SECRET=VAPI_WEBHOOK_SECRET:latest,CALL_SIGNING_SECRET=CALL_SIGNING_SECRET:latest"

gcloud run worker-pools deploy boostedcalls-webhooks "${where[@]}" "${common[@]}" \
    --args=webhooks --instances=2 --set-secrets="$nats"

# One instance always runs: a webhook must not wait for a cold start. No SPOOL_DIR: without a disk that lasts, webhooks
# that come while NATS or the webhooks service is away are answered 503; calls then learn their results by asking. Only
# PORT is reached from outside: /metrics and /docs are not.
gcloud run deploy boostedcalls "${where[@]}" "${common[@]}" \
    --allow-unauthenticated --min-instances=1 --set-env-vars=OPERATIONS_PORT=8081 \
    --set-secrets="$database,$nats,JWT_SECRET=JWT_SECRET:latest,VAPI_WEBHOOK_SECRET=VAPI_WEBHOOK_SECRET:latest"
