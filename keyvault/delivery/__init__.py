"""Delivery: consumers ask for a key and get the right one, recorded.

Plain ASGI in front of Django's handler. ``asgi`` is the entrance, ``keys`` puts the steps of a decision
together:

    authenticate -> limit -> grant -> choose -> open -> answer

``plane`` makes decisions from memory (``cache``, ``loading``) and lets an answer leave once ``group_commit``
has made its record durable and found the memory current. ``docs/request-flow.md`` walks through it.
"""
