-- The dearest hash that came from elsewhere (legacy_cost.py): the one end of this index. What is malformed is null there.
CREATE INDEX users_legacy
    ON auth.users ((substring(password_hash FROM '^pbkdf2_sha256\$([1-9][0-9]{0,6})\$')::integer))
    WHERE password_hash LIKE 'pbkdf2\_sha256$%';

-- How many sessions a user has, however many have ended; and which of those that have ended can go.
CREATE INDEX sessions_live ON auth.sessions (user_id, expires_at) WHERE revoked_at IS NULL;
CREATE INDEX sessions_ended ON auth.sessions (user_id, revoked_at) WHERE revoked_at IS NOT NULL;
