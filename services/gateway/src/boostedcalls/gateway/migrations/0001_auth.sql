CREATE TABLE auth.users (
    id uuid PRIMARY KEY,
    email text NOT NULL, -- lower case
    password_hash text NOT NULL, -- argon2id, PHC string
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT users_email UNIQUE (email)
);

-- A login, and every refresh token that descends from it: to revoke it is to revoke them all, those not yet made too.
CREATE TABLE auth.sessions (
    id uuid PRIMARY KEY,
    user_id uuid NOT NULL REFERENCES auth.users ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL, -- when its newest token does
    revoked_at timestamptz
);
CREATE INDEX sessions_user ON auth.sessions (user_id, expires_at);

CREATE TABLE auth.refresh_tokens (
    hash bytea PRIMARY KEY, -- sha256 of the token; the token itself is stored nowhere
    session_id uuid NOT NULL REFERENCES auth.sessions ON DELETE CASCADE,
    expires_at timestamptz NOT NULL,
    used_at timestamptz
);
CREATE INDEX refresh_tokens_session ON auth.refresh_tokens (session_id, expires_at);
