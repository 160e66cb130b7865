-- Which call a user's Idempotency-Key stands for, and what its first request was answered (idempotency.py).
CREATE TABLE calls.idempotency_keys (
    user_id uuid NOT NULL,
    key text NOT NULL,
    -- SHA-256 of the request that the key was first seen with.
    fingerprint bytea NOT NULL,
    call_id uuid NOT NULL REFERENCES calls.calls (id) ON DELETE CASCADE,
    created_at timestamptz NOT NULL,
    -- Until then the first request may still be answered by the process that took it.
    running_until timestamptz NOT NULL,
    -- The answer, once there is one: the HTTP status and the body, a problem document where it was an error.
    status smallint,
    answer bytea,
    PRIMARY KEY (user_id, key)
);
CREATE INDEX idempotency_keys_by_age ON calls.idempotency_keys (created_at);
