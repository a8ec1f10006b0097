"""The management API: Django REST framework over the same services that the console uses."""
