"""The REST routes: one module a noun. Each says what it takes, what it answers, and which service is asked."""
