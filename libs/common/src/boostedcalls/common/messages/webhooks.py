"""The provider's webhook on its way from the gateway to the webhooks service.

Its request is the provider's raw body, its answer the body to send back: no model stands between.
"""

from __future__ import annotations

from boostedcalls.common import subjects

INGEST_WEBHOOK = subjects.service("webhooks", "ingest")
