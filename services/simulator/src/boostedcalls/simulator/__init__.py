"""A stand-in for Vapi's HTTP API: it rings, talks, hangs up and sends webhooks. It knows nothing of BoostedCalls."""
