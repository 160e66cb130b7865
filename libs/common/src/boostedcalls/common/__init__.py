"""What the processes of BoostedCalls agree on: messages, subjects, errors, and the machinery three of them need.

No domain rules and no SQL of a domain table live here.
"""
