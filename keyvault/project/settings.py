"""Settings of Keyturn. Everything that differs between installations comes from the environment.

``.env.example`` lists every variable with its meaning. What is decided here and cannot be changed from
outside is decided for all installations: the content policy, the order of middleware, JSON only.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import environ
from csp.constants import NONE, SELF

from keyvault.crypto.remote import KekSettings, ProviderSettings
from keyvault.crypto.scanners import parse_scanner_keys
from keyvault.errors import MAX_BODY_BYTES
from keyvault.project.broker import VISIBILITY_TIMEOUT
from keyvault.project.cache_settings import cache_settings
from keyvault.project.checkpoint_places import parse_places
from keyvault.project.databases import database_settings
from keyvault.project.files import BASE_DIR, default_data_dir, ensure_private_dir, ensure_secret_key
from keyvault.project.group_roles import parse_rules
from keyvault.project.logs import configure_structlog, logging_settings
from keyvault.project.proxies import parse_networks

env = environ.Env()
_env_file = Path(env.str("KEYTURN_ENV_FILE", str(BASE_DIR / ".env")))
if _env_file.is_file():
    # What is set in the real environment wins over the file.
    env.read_env(str(_env_file))

# Place and name
_data = env.str("KEYTURN_DATA", "") or str(default_data_dir())
KEYTURN_DATA = ensure_private_dir(Path(_data).expanduser().absolute())
KEYTURN_URL = env.str("KEYTURN_URL", env.str("KEYTURN_DEFAULT_URL", "http://127.0.0.1:8000")).rstrip("/")
DEBUG = env.bool("KEYTURN_DEBUG", False)
_public = urlsplit(KEYTURN_URL)
if _public.scheme not in ("http", "https") or not _public.hostname:
    raise ValueError("KEYTURN_URL must be an http or https URL, such as https://keys.example.org.")
_https = _public.scheme == "https"

# Secrets of this process
SECRET_KEY = env.str("KEYTURN_SECRET_KEY", "") or ensure_secret_key(KEYTURN_DATA / "secret_key")
KEYTURN_KEYRING = Path(env.str("KEYTURN_KEYRING", str(KEYTURN_DATA / "keyring.json"))).expanduser()
KEYTURN_KEYRING_JSON = env.str("KEYTURN_KEYRING_JSON", "")
# Where new KEKs are made, and the providers of those that never leave them (docs/custody.md)
KEYTURN_KEK = KekSettings.parse(
    env.str("KEYTURN_KEK_PROVIDER", "env" if KEYTURN_KEYRING_JSON else "file"),
    env.str("KEYTURN_KEK_KEY", ""),
    env.float("KEYTURN_KEK_STALE", 3600.0),
    ProviderSettings(
        transit_url=env.str("KEYTURN_TRANSIT_URL", ""),
        transit_mount=env.str("KEYTURN_TRANSIT_MOUNT", "transit"),
        transit_namespace=env.str("KEYTURN_TRANSIT_NAMESPACE", ""),
        transit_ca_file=env.str("KEYTURN_TRANSIT_CA_FILE", ""),
        transit_token_file=env.str("KEYTURN_TRANSIT_TOKEN_FILE", ""),
        transit_role_id=env.str("KEYTURN_TRANSIT_ROLE_ID", ""),
        transit_secret_id_file=env.str("KEYTURN_TRANSIT_SECRET_ID_FILE", ""),
        transit_auth_mount=env.str("KEYTURN_TRANSIT_AUTH_MOUNT", "approle"),
        pkcs11_module=env.str("KEYTURN_PKCS11_MODULE", ""),
        pkcs11_token=env.str("KEYTURN_PKCS11_TOKEN", ""),
        pkcs11_pin_file=env.str("KEYTURN_PKCS11_PIN_FILE", ""),
    ),
)
if KEYTURN_KEK.provider == "env" and not KEYTURN_KEYRING_JSON:
    raise ValueError("KEYTURN_KEK_PROVIDER=env needs the keyring document in KEYTURN_KEYRING_JSON.")

# Behaviour
# Whom backups are sealed for, and for how many days each may be put back.
KEYTURN_BACKUP_RECIPIENTS = env.list("KEYTURN_BACKUP_RECIPIENTS", default=[])
KEYTURN_BACKUPS_KEPT = max(1, env.int("KEYTURN_BACKUPS_KEPT", 35))
KEYTURN_TICK = env.float("KEYTURN_TICK", 10)
KEYTURN_PROVIDER_CALLS = max(1, env.int("KEYTURN_PROVIDER_CALLS", 4))  # under way at once to one provider
# Emergency rotations that a bulk emergency keeps open at once, in all and at one provider.
KEYTURN_EMERGENCY_CAP = env.int("KEYTURN_EMERGENCY_CAP", 100)
KEYTURN_EMERGENCY_PROVIDER_CAP = env.int("KEYTURN_EMERGENCY_PROVIDER_CAP", 20)
# Whether a reported leak that is ours starts an emergency by itself; else a lead has to confirm it.
KEYTURN_LEAK_REPORTS_START = env.bool("KEYTURN_LEAK_REPORTS_START", False)
# Who may report what a scanner found, and whether tokens of ours that are found are revoked at once.
KEYTURN_SCANNING_KEYS = parse_scanner_keys(env.str("KEYTURN_SCANNING_KEYS", ""))
KEYTURN_SCANNING_REVOKES = env.bool("KEYTURN_SCANNING_REVOKES", True)
# Days for which deliveries are kept one by one, and what was counted by the minute.
KEYTURN_DELIVERIES_KEPT = max(8, env.int("KEYTURN_DELIVERIES_KEPT", 90))
KEYTURN_USAGE_KEPT = max(8, env.int("KEYTURN_USAGE_KEPT", 400))
# Where checkpoints of the audit chain go besides KEYTURN_DATA/checkpoints.
KEYTURN_CHECKPOINTS_TO = parse_places(env.list("KEYTURN_CHECKPOINTS_TO", default=[]))
KEYTURN_EGRESS_ALLOW = frozenset(env.list("KEYTURN_EGRESS_ALLOW", default=[]))
KEYTURN_EGRESS_LOOKUP = env.bool("KEYTURN_EGRESS_LOOKUP", default=True)
KEYTURN_TRUSTED_PROXIES = parse_networks(env.list("KEYTURN_TRUSTED_PROXIES", default=[]))
KEYTURN_HEARTBEAT_MAX_AGE = env.int("KEYTURN_HEARTBEAT_MAX_AGE", max(30, 3 * KEYTURN_TICK))
KEYTURN_API_RATE = env.str("KEYTURN_API_RATE", "600/min")  # of one user token, in the management API
# How many keys one process keeps in memory (sealed, about 3 KiB each with its grants and tokens).
KEYTURN_CACHE_KEYS = env.int("KEYTURN_CACHE_KEYS", 50_000)
KEYTURN_FLUSH_CONNECTIONS = env.int("KEYTURN_FLUSH_CONNECTIONS", 2)
# Seconds for which deliveries go on from memory while PostgreSQL is away; 0: they stop with it.
DELIVERY_OUTAGE_GRACE = env.float("DELIVERY_OUTAGE_GRACE", 0.0)
# Verifications of one key that we issued, a minute; 0: as many as come.
KEYTURN_ISSUED_KEY_RATE = env.int("KEYTURN_ISSUED_KEY_RATE", 0)
KEYTURN_RATE_LIMIT_URL = env.str("KEYTURN_RATE_LIMIT_URL", "")  # where several hosts count together
KEYTURN_RATE_FILE = Path(env.str("KEYTURN_RATE_FILE", "") or KEYTURN_DATA / "limits.cells").expanduser()
KEYTURN_RATE_CELLS = env.int("KEYTURN_RATE_CELLS", 262_144)  # most subjects a minute that one host counts
KEYTURN_LOG_LEVEL = env.str("KEYTURN_LOG_LEVEL", "INFO").upper()

# The server (server.py): seconds, connections of one web process, MiB
KEYTURN_WEB_THREADS = env.int("KEYTURN_WEB_THREADS", 8)
KEYTURN_MAX_CONNECTIONS = env.int("KEYTURN_MAX_CONNECTIONS", 8192)
KEYTURN_HEADER_TIMEOUT = env.float("KEYTURN_HEADER_TIMEOUT", 10)
KEYTURN_BODY_TIMEOUT = env.float("KEYTURN_BODY_TIMEOUT", 10)
KEYTURN_WORKER_LIFETIME = env.int("KEYTURN_WORKER_LIFETIME", 0)
KEYTURN_WORKER_MAX_RSS = env.int("KEYTURN_WORKER_MAX_RSS", 1024)

CELERY_BROKER_URL = env.str("CELERY_BROKER_URL", "")
CELERY_VISIBILITY_TIMEOUT = env.int("CELERY_VISIBILITY_TIMEOUT", VISIBILITY_TIMEOUT)

ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["127.0.0.1", "localhost", "[::1]", _public.hostname])
CSRF_TRUSTED_ORIGINS = [f"{_public.scheme}://{_public.netloc}"]

INSTALLED_APPS = [
    "keyvault.project.apps.ProjectConfig",
    "keyvault.apps.KeyvaultConfig",
    "keyvault.console.apps.ConsoleConfig",
    "rotation.apps.RotationConfig",
    "keyvault.project.apps.RecordsConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "django.forms",
    "allauth",
    "allauth.account",
    "allauth.mfa",
    "allauth.socialaccount",
    "allauth.socialaccount.providers.openid_connect",
    "allauth.usersessions",
    "csp",
    "django_htmx",
    "rest_framework",
    "drf_spectacular",
]

MIDDLEWARE = [
    "keyvault.project.middleware.request_context",
    "keyvault.project.middleware.api_gate",
    "django.middleware.security.SecurityMiddleware",
    "csp.middleware.CSPMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "keyvault.project.middleware.ConsoleCommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "keyvault.project.sessions.session_limits",
    "keyvault.project.sessions.second_factor_required",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
]

ROOT_URLCONF = "keyvault.project.urls"
WSGI_APPLICATION = "keyvault.project.wsgi.application"
ASGI_APPLICATION = "keyvault.project.asgi.application"
FORM_RENDERER = "django.forms.renderers.TemplatesSetting"

_templates = BASE_DIR / "templates"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        # A wheel carries the pages inside the package.
        "DIRS": [_templates if _templates.is_dir() else BASE_DIR / "keyvault" / "_templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "rotation.console.context.waiting",
            ],
        },
    }
]

# Data
DATABASES = {
    "default": database_settings(
        env.str("DATABASE_URL", ""), KEYTURN_DATA, pool_size=env.int("KEYTURN_DATABASE_POOL", 8)
    )
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
# Attempts to sign in are counted here, so all processes have to share it.
CACHES = {"default": cache_settings(env.str("CACHE_URL", ""), KEYTURN_DATA)}
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en"
USE_I18N = False

# Static files. "finders" serves straight from the source tree; everything else is collected once.
_finders = env.str("KEYTURN_STATIC", "finders" if DEBUG else "collected") == "finders"
STATIC_URL = "/static/"
STATIC_ROOT = KEYTURN_DATA / "static"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"
        if _finders
        else "whitenoise.storage.CompressedManifestStaticFilesStorage"
    },
}
WHITENOISE_USE_FINDERS = WHITENOISE_AUTOREFRESH = _finders

# Bodies
DATA_UPLOAD_MAX_MEMORY_SIZE = MAX_BODY_BYTES
FILE_UPLOAD_MAX_MEMORY_SIZE = MAX_BODY_BYTES
DATA_UPLOAD_MAX_NUMBER_FIELDS = 500
DATA_UPLOAD_MAX_NUMBER_FILES = 0

# The browser
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [SELF],
        "img-src": [SELF],
        "object-src": [NONE],
        "base-uri": [NONE],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
    }
}
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
SECURE_HSTS_SECONDS = 31_536_000 if _https else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = False
X_FRAME_OPTIONS = "DENY"

# A browser takes a __Host- cookie over https only.
_cookie = "__Host-keyturn-" if _https else "keyturn-"
SESSION_COOKIE_NAME = f"{_cookie}session"
KEYTURN_DEVICE_COOKIE = f"{_cookie}device"  # of a browser in which somebody has signed in before
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = _https
SESSION_COOKIE_HTTPONLY = CSRF_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_AGE = 8 * 3600
SESSION_EXPIRE_AT_BROWSER_CLOSE = True
CSRF_COOKIE_NAME = f"{_cookie}csrf"
CSRF_FAILURE_VIEW = "keyvault.project.failures.csrf_failure"
MESSAGE_STORAGE = "django.contrib.messages.storage.session.SessionStorage"

# People
AUTH_USER_MODEL = "keyvault.User"
AUTHENTICATION_BACKENDS = ["allauth.account.auth_backends.AuthenticationBackend"]
PASSWORD_HASHERS = ["django.contrib.auth.hashers.Argon2PasswordHasher"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "/"
ACCOUNT_ADAPTER = "keyvault.project.accounts.AccountAdapter"
ACCOUNT_LOGIN_METHODS = {"username"}
ACCOUNT_UNIQUE_EMAIL = False  # mail goes there; nobody is known by it
ACCOUNT_SIGNUP_FIELDS = ["username*", "password1*", "password2*"]
ACCOUNT_EMAIL_VERIFICATION = "none"
ACCOUNT_LOGOUT_REDIRECT_URL = "account_login"
ACCOUNT_LOGOUT_ON_PASSWORD_CHANGE = True
ACCOUNT_SESSION_REMEMBER = False
ACCOUNT_REAUTHENTICATION_TIMEOUT = 300
ACCOUNT_PREVENT_ENUMERATION = True
ALLAUTH_TRUSTED_PROXY_COUNT = 0  # proxies.py has looked already: REMOTE_ADDR is the caller
# Leads and administrators need a second factor where Keyturn is more than a try on one's own machine.
_at_home = DEBUG or _public.hostname in ("127.0.0.1", "localhost", "::1")
KEYTURN_REQUIRE_MFA = env.bool("KEYTURN_REQUIRE_MFA", not _at_home)
MFA_ADAPTER = "keyvault.project.second_factor.SecondFactorAdapter"
MFA_SUPPORTED_TYPES = ["totp", "webauthn", "recovery_codes"]
MFA_FORMS = {
    "activate_totp": "keyvault.project.second_factor.ActivateTOTPForm",
    "authenticate": "keyvault.project.second_factor.OnceAuthenticateForm",
    "reauthenticate": "keyvault.project.second_factor.OnceReauthenticateForm",
    "authenticate_webauthn": "keyvault.project.second_factor.WatchedAuthenticateForm",
    "login_webauthn": "keyvault.project.second_factor.WatchedLoginForm",
    "reauthenticate_webauthn": "keyvault.project.second_factor.WatchedReauthenticateForm",
}
MFA_ALLOW_UNVERIFIED_EMAIL = True  # addresses play no part in who somebody is
MFA_PASSKEY_LOGIN_ENABLED = True
MFA_RECOVERY_CODES_SHOW_ONCE = True
MFA_TOTP_ISSUER = "Keyturn"
MFA_TOTP_TOLERANCE = 1
MFA_WEBAUTHN_ALLOW_INSECURE_ORIGIN = not _https  # browsers themselves allow it on localhost only

# Single sign-on with OpenID Connect; without an issuer there is none.
KEYTURN_OIDC_ISSUER = env.str("KEYTURN_OIDC_ISSUER", "")
KEYTURN_OIDC_GROUPS_CLAIM = env.str("KEYTURN_OIDC_GROUPS_CLAIM", "groups")
KEYTURN_OIDC_ROLES = parse_rules(env.json("KEYTURN_OIDC_ROLES", default={}))
_provider = {
    "provider_id": "sso",
    "name": env.str("KEYTURN_OIDC_NAME", "single sign-on"),
    "client_id": env.str("KEYTURN_OIDC_CLIENT_ID", ""),
    "secret": env.str("KEYTURN_OIDC_CLIENT_SECRET", ""),
    "settings": {"server_url": KEYTURN_OIDC_ISSUER.rstrip("/")},
}
SOCIALACCOUNT_PROVIDERS = {
    "openid_connect": {
        "OAUTH_PKCE_ENABLED": True,
        "SCOPE": env.str("KEYTURN_OIDC_SCOPES", "openid profile email").split(),
        "APPS": [_provider] if KEYTURN_OIDC_ISSUER else [],
    }
}
SOCIALACCOUNT_ADAPTER = "keyvault.project.single_sign_on.SingleSignOnAdapter"
# A link, not a form: a form that ends at the provider would need a looser content policy.
SOCIALACCOUNT_LOGIN_ON_GET = True
SOCIALACCOUNT_EMAIL_VERIFICATION = "none"
SOCIALACCOUNT_REQUESTS_TIMEOUT = 10

# Mail goes out where EMAIL_URL says; without one nothing is sent, and the channel says so.
_mail = env.email_url("EMAIL_URL", "smtp:")
EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
EMAIL_HOST, EMAIL_PORT = _mail["EMAIL_HOST"] or "", _mail["EMAIL_PORT"] or 25
EMAIL_HOST_USER, EMAIL_HOST_PASSWORD = _mail["EMAIL_HOST_USER"] or "", _mail["EMAIL_HOST_PASSWORD"] or ""
EMAIL_USE_TLS, EMAIL_USE_SSL = _mail.get("EMAIL_USE_TLS", False), _mail.get("EMAIL_USE_SSL", False)
EMAIL_TIMEOUT = 15
DEFAULT_FROM_EMAIL = env.str("EMAIL_FROM", f"keyturn@{_public.hostname}")

# The management API
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["keyvault.api.authentication.UserTokenAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["keyvault.api.permissions.DenyAll"],
    "DEFAULT_PARSER_CLASSES": ["keyvault.api.parsers.StrictJSONParser"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "keyvault.api.errors.exception_handler",
    "UNAUTHENTICATED_USER": None,
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
    # A ?format= parameter is ours (json, raw, env), not a way to choose a renderer.
    "URL_FORMAT_OVERRIDE": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Keyturn",
    "DESCRIPTION": "Keeps API keys per environment and replaces them without anyone noticing.",
    "VERSION": "1",
    "OAS_VERSION": "3.1.1",
    "SCHEMA_PATH_PREFIX": "/v1/",
    "SERVE_INCLUDE_SCHEMA": False,
    "COMPONENT_SPLIT_REQUEST": True,
    "PATH_CONVERTER_OVERRIDES": {"name": str, "username": str},
    "ENUM_GENERATE_CHOICE_DESCRIPTION": False,
    "POSTPROCESSING_HOOKS": [
        "keyvault.api.openapi.refuse_strange_fields",
        "keyvault.api.openapi.type_path_parameters",
        "keyvault.api.openapi.add_refusals",
        "keyvault.project.openapi.add_consumer_paths",
    ],
}

DEFAULT_EXCEPTION_REPORTER_FILTER = "keyvault.project.reports.ReportFilter"
configure_structlog()
LOGGING = logging_settings(KEYTURN_LOG_LEVEL)
