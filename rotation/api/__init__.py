"""The management API of providers, policies, keys and rotations."""
