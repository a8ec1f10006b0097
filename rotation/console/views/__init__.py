"""Views read, call one service, and answer with a page or a redirect."""
