"""Secrets, envelopes, key-encryption keys and tokens.

Nothing in here knows Django, the database or the clock: callers hand in values and
the time, and get values back. That keeps every line of cryptography testable alone.
"""
