-- Counts the changes of the password: a login that began with the password before opens no session.
ALTER TABLE auth.users ADD COLUMN password_version integer NOT NULL DEFAULT 0;

-- Makes a refresh token's successor out of the token: the same one for the same token, stored in clear nowhere. Random,
-- from the server's cryptographic source; the sessions of today get theirs here, those of older replicas by the default.
ALTER TABLE auth.sessions ADD COLUMN successor_key bytea NOT NULL
    DEFAULT uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid());

-- What has ended since: every gateway asks each second.
CREATE INDEX sessions_revoked ON auth.sessions (revoked_at) WHERE revoked_at IS NOT NULL;
