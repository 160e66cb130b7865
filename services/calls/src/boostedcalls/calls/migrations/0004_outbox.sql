-- A relay holds a row by its lock, no longer by a time.
ALTER TABLE calls.outbox DROP COLUMN claimed_until;
