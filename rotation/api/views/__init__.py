"""Views of rotation, one file per resource."""
