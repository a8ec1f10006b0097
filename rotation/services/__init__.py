"""Operator verbs: what people, schedules and the API ask of rotations."""
