"""Delivery: consumers ask for a key and get the right one, recorded.

Plain ASGI in front of Django's handler. One request passes, in this order, through

    requests -> authenticate -> grant -> limit -> choose -> open -> record -> answer

with one file each. ``asgi`` is the entrance, ``keys`` puts the steps together.
"""
