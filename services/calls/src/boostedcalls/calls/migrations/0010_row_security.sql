-- The second wall between tenants (docs/adr/0008): a transaction sees and writes the rows of the scope that it set,
-- `SET LOCAL bc.scope` to a user's id or to * for the service itself; without a scope there are none. It binds the
-- tables' owner too. A policy without WITH CHECK checks with USING what is written.
--
-- CASE, not OR: of it the planner makes no estimate that would change the plans. The subselects are evaluated once a
-- query, where a row was locked by another in any case (so * must not come to the cast).
ALTER TABLE calls.calls ENABLE ROW LEVEL SECURITY;
ALTER TABLE calls.calls FORCE ROW LEVEL SECURITY;
CREATE POLICY scope ON calls.calls USING (
    CASE WHEN (SELECT current_setting('bc.scope', true)) = '*' THEN true
    ELSE user_id = (SELECT CASE WHEN current_setting('bc.scope', true) <> '*'
                           THEN nullif(current_setting('bc.scope', true), '')::uuid END) END
);

ALTER TABLE calls.totals ENABLE ROW LEVEL SECURITY;
ALTER TABLE calls.totals FORCE ROW LEVEL SECURITY;
CREATE POLICY scope ON calls.totals USING (
    CASE WHEN (SELECT current_setting('bc.scope', true)) = '*' THEN true
    ELSE user_id = (SELECT CASE WHEN current_setting('bc.scope', true) <> '*'
                           THEN nullif(current_setting('bc.scope', true), '')::uuid END) END
);

ALTER TABLE calls.daily ENABLE ROW LEVEL SECURITY;
ALTER TABLE calls.daily FORCE ROW LEVEL SECURITY;
CREATE POLICY scope ON calls.daily USING (
    CASE WHEN (SELECT current_setting('bc.scope', true)) = '*' THEN true
    ELSE user_id = (SELECT CASE WHEN current_setting('bc.scope', true) <> '*'
                           THEN nullif(current_setting('bc.scope', true), '')::uuid END) END
);

ALTER TABLE calls.idempotency_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE calls.idempotency_keys FORCE ROW LEVEL SECURITY;
CREATE POLICY scope ON calls.idempotency_keys USING (
    CASE WHEN (SELECT current_setting('bc.scope', true)) = '*' THEN true
    ELSE user_id = (SELECT CASE WHEN current_setting('bc.scope', true) <> '*'
                           THEN nullif(current_setting('bc.scope', true), '')::uuid END) END
);

-- A line belongs to whom its call belongs to.
ALTER TABLE calls.timeline ENABLE ROW LEVEL SECURITY;
ALTER TABLE calls.timeline FORCE ROW LEVEL SECURITY;
CREATE POLICY scope ON calls.timeline USING (
    CASE WHEN (SELECT current_setting('bc.scope', true)) = '*' THEN true
    ELSE EXISTS (
        SELECT FROM calls.calls AS c
        WHERE c.id = call_id
          AND c.user_id = (SELECT CASE WHEN current_setting('bc.scope', true) <> '*'
                                  THEN nullif(current_setting('bc.scope', true), '')::uuid END)
    ) END
);

-- No user's: what the service keeps for itself.
ALTER TABLE calls.unmatched ENABLE ROW LEVEL SECURITY;
ALTER TABLE calls.unmatched FORCE ROW LEVEL SECURITY;
CREATE POLICY scope ON calls.unmatched USING ((SELECT current_setting('bc.scope', true)) = '*');

ALTER TABLE calls.settled ENABLE ROW LEVEL SECURITY;
ALTER TABLE calls.settled FORCE ROW LEVEL SECURITY;
CREATE POLICY scope ON calls.settled USING ((SELECT current_setting('bc.scope', true)) = '*');

-- Anybody's work may leave an event behind; only the relay reads and deletes them.
ALTER TABLE calls.outbox ENABLE ROW LEVEL SECURITY;
ALTER TABLE calls.outbox FORCE ROW LEVEL SECURITY;
CREATE POLICY scope ON calls.outbox USING ((SELECT current_setting('bc.scope', true)) = '*');
CREATE POLICY enqueue ON calls.outbox FOR INSERT WITH CHECK ((SELECT current_setting('bc.scope', true)) <> '');
