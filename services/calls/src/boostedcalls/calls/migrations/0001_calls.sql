-- A call: what was asked for, the join of all that is known of it, and when to look at it next.
CREATE TABLE calls.calls (
    id uuid PRIMARY KEY,
    user_id uuid NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    version integer NOT NULL DEFAULT 1,

    -- The request, with contact and script as they were then.
    contact_id uuid NOT NULL,
    contact_name text NOT NULL,
    contact_phone text NOT NULL,
    contact_email text,
    contact_metadata jsonb,
    script_id uuid,
    script jsonb,
    assistant_id text NOT NULL,
    phone_number_id text NOT NULL,
    custom_prompt text,
    first_message text,
    call_goals jsonb,
    request_metadata jsonb,

    -- The join of the facts (state.py). `keys` holds, per field, what its present value won with.
    status text NOT NULL DEFAULT 'pending',
    ended_reason text,
    error_code text,
    error_message text,
    outcome text,
    analysed_outcome text,
    transcript text,
    summary text,
    analysis jsonb,
    messages jsonb,
    recording_url text,
    stereo_recording_url text,
    started_at timestamptz,
    ended_at timestamptz,
    duration_seconds integer,
    cost numeric(14, 6),
    cost_breakdown jsonb,
    final boolean NOT NULL DEFAULT false,
    keys jsonb NOT NULL DEFAULT '{}',

    -- Who it is at the provider, how far its placing got, and when it is due for a look (schedule.py).
    provider_call_id text,
    control_url text,
    dispatch_started_at timestamptz,
    dispatch_closed boolean NOT NULL DEFAULT false,
    hang_up_wanted boolean NOT NULL DEFAULT false,
    checks integer NOT NULL DEFAULT 0,
    synced_at timestamptz,
    due_at timestamptz,

    CONSTRAINT calls_provider_call_id_key UNIQUE (provider_call_id)
);

CREATE INDEX calls_newest ON calls.calls (user_id, created_at DESC, id DESC);
CREATE INDEX calls_by_status ON calls.calls (user_id, status, created_at DESC, id DESC);
CREATE INDEX calls_by_contact ON calls.calls (user_id, contact_id, created_at DESC, id DESC);
CREATE INDEX calls_by_script ON calls.calls (user_id, script_id, created_at DESC, id DESC) WHERE script_id IS NOT NULL;
CREATE INDEX calls_due ON calls.calls (due_at) WHERE due_at IS NOT NULL;

-- The timeline: one row a fact; the id is made from the fact, so a repeat changes nothing.
CREATE TABLE calls.timeline (
    call_id uuid NOT NULL REFERENCES calls.calls (id) ON DELETE CASCADE,
    id uuid NOT NULL,
    at timestamptz NOT NULL,
    type text NOT NULL,
    source text NOT NULL,
    status text,
    detail jsonb,
    PRIMARY KEY (call_id, id)
);

-- Provider events whose call is not known (yet).
CREATE TABLE calls.unmatched (
    provider_call_id text NOT NULL,
    -- In the stream. A stream that was made anew counts from one again, so it tells events of one call apart, no more.
    sequence bigint NOT NULL,
    event jsonb NOT NULL,
    parked_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (provider_call_id, sequence)
);
CREATE INDEX unmatched_by_age ON calls.unmatched (parked_at);

-- Rollups, kept in the transaction that changes a call: a count costs the same at any size.
CREATE TABLE calls.totals (
    user_id uuid NOT NULL,
    status text NOT NULL,
    calls bigint NOT NULL,
    spent numeric(18, 6) NOT NULL,
    PRIMARY KEY (user_id, status)
);
CREATE TABLE calls.daily (
    user_id uuid NOT NULL,
    day date NOT NULL,
    completed bigint NOT NULL,
    PRIMARY KEY (user_id, day)
);

CREATE TABLE calls.outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id uuid NOT NULL,
    type text NOT NULL,
    subject text NOT NULL,
    data bytea NOT NULL,
    traceparent text NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    claimed_until timestamptz NOT NULL DEFAULT '-infinity'
);
