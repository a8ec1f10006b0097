"""Who gets which answer: every route, asked by every kind of caller, compared with a file that people review.

``answers.csv`` beside this is the review: one line for a route and a method, one column for a caller.
``python -m tests.access > tests/access/answers.csv`` writes it anew; read what changed before you keep it.

- ``nobody``: without a session and without a token. ``absent``: the lead, asking for names that are not
  there; a stranger must get the same. ``stale``: the lead, who has not given the password again.
- ``stranger``: lead of another team. ``viewer``, ``operator``, ``lead``: of the team that owns everything
  that the paths name. ``auditor`` and ``admin``: of the organisation. ``superuser``: of Django's admin, and
  no more.
- ``other``: an administrator by the credential that does not belong here: a user token on pages, a session
  on the API. ``revoked``: a revoked user token of the administrator. ``consumer``, ``consumer2``: a consumer
  token of the team and of another team. ``access``: an access token of the first one.
- Pages are asked with a session, the API with a user token.

A cell is the status, and the code of the error where the status has more than one. ``login``, ``password``
and ``entrance`` are redirects to the page that asks for them. ``secret``: the answer holds one, which is its
purpose. ``-``: this caller makes no difference here.
"""
