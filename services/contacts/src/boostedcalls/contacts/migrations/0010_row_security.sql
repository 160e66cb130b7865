-- The second wall between tenants (docs/adr/0008): a transaction sees and writes the rows of the scope that it set,
-- `SET LOCAL bc.scope` to a user's id or to * for the service itself; without a scope there are none. It binds the
-- tables' owner too. A policy without WITH CHECK checks with USING what is written.
--
-- CASE, not OR: of it the planner makes no estimate that would change the plans. The subselects are evaluated once a
-- query, where a row was locked by another in any case (so * must not come to the cast).
ALTER TABLE contacts.contacts ENABLE ROW LEVEL SECURITY;
ALTER TABLE contacts.contacts FORCE ROW LEVEL SECURITY;
CREATE POLICY scope ON contacts.contacts USING (
    CASE WHEN (SELECT current_setting('bc.scope', true)) = '*' THEN true
    ELSE user_id = (SELECT CASE WHEN current_setting('bc.scope', true) <> '*'
                           THEN nullif(current_setting('bc.scope', true), '')::uuid END) END
);

ALTER TABLE contacts.scripts ENABLE ROW LEVEL SECURITY;
ALTER TABLE contacts.scripts FORCE ROW LEVEL SECURITY;
CREATE POLICY scope ON contacts.scripts USING (
    CASE WHEN (SELECT current_setting('bc.scope', true)) = '*' THEN true
    ELSE user_id = (SELECT CASE WHEN current_setting('bc.scope', true) <> '*'
                           THEN nullif(current_setting('bc.scope', true), '')::uuid END) END
);

ALTER TABLE contacts.totals ENABLE ROW LEVEL SECURITY;
ALTER TABLE contacts.totals FORCE ROW LEVEL SECURITY;
CREATE POLICY scope ON contacts.totals USING (
    CASE WHEN (SELECT current_setting('bc.scope', true)) = '*' THEN true
    ELSE user_id = (SELECT CASE WHEN current_setting('bc.scope', true) <> '*'
                           THEN nullif(current_setting('bc.scope', true), '')::uuid END) END
);

-- Anybody's work may leave an event behind; only the relay reads and deletes them.
ALTER TABLE contacts.outbox ENABLE ROW LEVEL SECURITY;
ALTER TABLE contacts.outbox FORCE ROW LEVEL SECURITY;
CREATE POLICY scope ON contacts.outbox USING ((SELECT current_setting('bc.scope', true)) = '*');
CREATE POLICY enqueue ON contacts.outbox FOR INSERT WITH CHECK ((SELECT current_setting('bc.scope', true)) <> '');
