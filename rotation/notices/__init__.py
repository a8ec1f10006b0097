"""Telling people and programs: texts, the rows that wait, senders, digests, incidents that escalate."""
