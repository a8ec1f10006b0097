"""The console: pages for people.

Views here know custody only; what shows rotations lives in ``rotation.console``.
"""
