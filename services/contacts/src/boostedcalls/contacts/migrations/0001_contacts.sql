CREATE TABLE contacts.contacts (
    id uuid PRIMARY KEY,
    user_id uuid NOT NULL,
    name text NOT NULL,
    phone text NOT NULL,
    email text,
    metadata jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX contacts_oldest ON contacts.contacts (user_id, created_at, id);

CREATE TABLE contacts.scripts (
    id uuid PRIMARY KEY,
    user_id uuid NOT NULL,
    name text NOT NULL,
    description text,
    custom_prompt text,
    first_message text,
    call_goals jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX scripts_oldest ON contacts.scripts (user_id, created_at, id);

-- Kept in the transaction that inserts or deletes: a count costs the same at any size.
CREATE TABLE contacts.totals (
    user_id uuid PRIMARY KEY,
    contacts bigint NOT NULL DEFAULT 0,
    scripts bigint NOT NULL DEFAULT 0
);

CREATE TABLE contacts.outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id uuid NOT NULL,
    type text NOT NULL,
    subject text NOT NULL,
    data bytea NOT NULL,
    traceparent text NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    claimed_until timestamptz NOT NULL DEFAULT '-infinity'
);
