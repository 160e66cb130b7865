"""The contacts service: a user's contacts and call scripts, and the events that tell of contacts."""
