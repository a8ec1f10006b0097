"""Error reports that name no secret of ours."""

from __future__ import annotations

import re

from django.views.debug import SafeExceptionReporterFilter


class ReportFilter(SafeExceptionReporterFilter):
    """Django hides what is called a key, secret or password; addresses of databases and brokers hold some."""

    hidden_settings = re.compile(
        SafeExceptionReporterFilter.hidden_settings.pattern + "|URL|DSN|LOCATION|KEYRING|KEK|PEPPER",
        re.IGNORECASE,
    )
