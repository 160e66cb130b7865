-- How often what was tried (throttle.py). A key is an HMAC: no address of a person or a machine stands here.
CREATE TABLE auth.tries (
    key bytea PRIMARY KEY,
    kind smallint NOT NULL, -- throttle.Kind; rows are locked in its order
    count integer NOT NULL DEFAULT 0,
    blocked_until timestamptz NOT NULL DEFAULT 'epoch',
    forget_at timestamptz NOT NULL -- from then on as if it were not there
);
CREATE INDEX tries_forget ON auth.tries (forget_at);

-- How many requests of a user were given out to gateways in the user's current minute (quota.py). One row a user. What
-- a crash of the server loses here is a minute's count.
CREATE UNLOGGED TABLE auth.request_windows (
    user_id uuid PRIMARY KEY,
    started_at timestamptz NOT NULL,
    used integer NOT NULL,
    lease integer NOT NULL -- how many of them the last gateway got
);
