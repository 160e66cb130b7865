"""Settings for measurements and attacks, which come faster than people work."""

UNLIMITED = {
    "REQUESTS_PER_USER_PER_MINUTE": "0",
    "CREATE_CALLS_PER_MINUTE": "0",
    "NUMBER_COOLDOWN": "0",
    "SIGNUPS_PER_ADDRESS_PER_HOUR": "0",
}
"""One user asks for more than anybody may."""
UNTHROTTLED = {
    "LOGIN_TRIES_PER_PAIR": "0",
    "LOGIN_TRIES_PER_ACCOUNT": "0",
    "LOGIN_TRIES_PER_ADDRESS": "0",
    "LOGIN_TRIES_PER_MINUTE": "0",
}
"""Wrong passwords without end. By itself: a login that is measured is counted as everybody's is."""
