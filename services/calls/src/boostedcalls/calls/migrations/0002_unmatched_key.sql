-- The numbers of a stream that was made anew begin at one again: they alone do not tell parked events apart.
ALTER TABLE calls.unmatched DROP CONSTRAINT unmatched_pkey, ADD PRIMARY KEY (provider_call_id, sequence);
DROP INDEX calls.unmatched_by_call;
