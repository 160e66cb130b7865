-- Which provider events are dealt with: their places in the stream. One row a batch, written in the transaction that
-- applies it; the sweep (audit.py) makes one row of many, and compares it with the stream.
CREATE TABLE calls.settled (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- A stream that was made later than this counts from one again: then the row says nothing of it.
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    sequences int8multirange NOT NULL
);
