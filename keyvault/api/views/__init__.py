"""Views of custody, one file per resource."""
