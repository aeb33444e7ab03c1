"""Providers of payments, books and shops."""

from __future__ import annotations

from .provider import BASIC_RAW, POST, Provider, require_host

STRIPE: Provider = {
    "authorization_endpoint": "https://connect.stripe.com/oauth/authorize",
    "token_endpoint": "https://connect.stripe.com/oauth/token",
    "scope": "read_write",
    "auth_method": POST,
    "use_pkce": False,
    "details": ("stripe_user_id", "livemode"),
}
"""Stripe Connect; the client's secret is the secret key of the platform.

It has no endpoint that revokes a token: `POST /oauth/deauthorize` takes the account, which is in `details`.
https://docs.stripe.com/connect/oauth-reference
"""

QUICKBOOKS: Provider = {
    "authorization_endpoint": "https://appcenter.intuit.com/connect/oauth2",
    "token_endpoint": "https://oauth.platform.intuit.com/oauth2/v1/tokens/bearer",
    "revocation_endpoint": "https://developer.api.intuit.com/v2/oauth2/tokens/revoke",
    "scope": "com.intuit.quickbooks.accounting",
    "auth_method": BASIC_RAW,
    "use_pkce": False,
    "revocation": {"body": "json"},
    "details": ("id_token",),
}
"""QuickBooks. The company is in the callback, as `realmId`: pass it as `account`.

https://developer.intuit.com/app/developer/qbo/docs/develop/authentication-and-authorization/oauth-2.0
"""


def shopify(shop: str) -> Provider:
    """Return a shop, with tokens that expire and are refreshed.

    Pass it as `account`. Its tokens end when the app is uninstalled; there is no endpoint that revokes one.
    https://shopify.dev/docs/apps/build/authentication-authorization/access-tokens/authorization-code-grant
    https://shopify.dev/docs/apps/build/authentication-authorization/access-tokens/offline-access-tokens

    Args:
        shop: `name.myshopify.com`, from the callback, whose `hmac` you have compared.
    """
    require_host("shop", shop, ".myshopify.com")
    return {
        "authorization_endpoint": f"https://{shop}/admin/oauth/authorize",
        "token_endpoint": f"https://{shop}/admin/oauth/access_token",
        "auth_method": POST,
        "token_params": {"expiring": "1"},
        "use_pkce": False,
        "details": ("associated_user_scope",),
    }
