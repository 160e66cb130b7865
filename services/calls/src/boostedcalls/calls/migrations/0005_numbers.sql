-- When a user's number was called last (limits.py).
CREATE INDEX calls_by_number ON calls.calls (user_id, contact_phone, created_at DESC);
