"""Connected accounts of the v2 API: who can be paid, what is missing, the form to give it."""

from __future__ import annotations

from actors.fake_stripe.checkout import require_url
from actors.fake_stripe.faults import Json, Refusal
from actors.fake_stripe.world import World, iso, only_modelled

LINK_S = 300
COUNTRIES = frozenset(
    {
        *("US", "GB", "CA", "CH", "AT", "BE", "BG", "CY", "CZ", "DE", "DK", "EE", "ES", "FI"),
        *("FR", "GR", "HR", "HU", "IE", "IS", "IT", "LI", "LT", "LU", "LV", "MT", "NL", "NO"),
        *("PL", "PT", "RO", "SE", "SI", "SK"),
    }
)
"""Where a US platform can send transfers by itself."""

CAPABILITY = {
    # our note: (the capability's status, why, what is missing)
    "incomplete": (
        "restricted",
        "requirements_past_due",
        ("identity.individual.given_name", "identity.individual.surname", "external_account"),
    ),
    "pending": ("pending", "requirements_pending_verification", ()),
    "active": ("active", None, ()),
    "restricted": ("restricted", "requirements_past_due", ("identity.individual.document",)),
}
CAPABILITY_EVENT = "v2.core.account[configuration.recipient].capability_status_updated"


def create(world: World, params: Json) -> Json:
    """An account that is to be paid; nothing is known of it yet."""
    only_modelled(
        params,
        *("configuration", "contact_email", "dashboard", "defaults", "display_name", "identity"),
        *("metadata", "include"),
    )
    only_modelled(params.get("configuration", {}), "recipient")
    country = str(params.get("identity", {}).get("country", "")).upper()
    if country not in COUNTRIES:
        raise Refusal(
            "Accounts in this country cannot be paid by this platform.",
            param="identity.country",
            code="country_unsupported",
        )
    recipient = params.get("configuration", {}).get("recipient", {})
    balance = recipient.get("capabilities", {}).get("stripe_balance", {})
    account = world.add(
        {
            "id": world.new_id("acct_"),
            "object": "v2.core.account",
            "applied_configurations": ["recipient"],
            "contact_email": params.get("contact_email"),
            "created": iso(world.now_s()),
            "dashboard": params.get("dashboard", "none"),
            "display_name": params.get("display_name"),
            "livemode": False,
            "metadata": params.get("metadata", {}),
            "_country": country,
            "_defaults": params.get("defaults"),
            "_requested": bool(balance.get("stripe_transfers", {}).get("requested")),
            "_state": "incomplete",
        }
    )
    world.announce_thin("v2.core.account.created", account)
    return account


def show(world: World, account: Json, include: list[str]) -> Json:
    """The account; its larger parts only when they were asked for."""
    status, reason, missing = CAPABILITY[account["_state"]]
    details = [{"code": reason, "resolution": "provide_info"}] if reason else []
    transfers = {"requested": True, "status": status, "status_details": details}
    entries = [
        {"description": name, "awaiting_action_from": "user", "errors": []} for name in missing
    ]
    parts: Json = {
        "defaults": account["_defaults"],
        "identity": {"country": account["_country"].lower()},
        "requirements": {"entries": entries},
    }
    recipient = {
        "applied": True,
        "capabilities": (
            {"stripe_balance": {"stripe_transfers": transfers}} if account["_requested"] else None
        ),
    }
    shown = world.show(account)
    shown["configuration"] = {
        "recipient": recipient if "configuration.recipient" in include else None
    }
    for name, part in parts.items():
        shown[name] = part if name in include else None
    return shown


def can_be_paid(account: Json) -> bool:
    return bool(account["_requested"]) and account["_state"] == "active"


def set_state(world: World, account: Json, state: str) -> None:
    """Somebody filled in the form, or a check came out. Announces what changed."""
    if account["_state"] != state:
        account["_state"] = state
        world.announce_thin("v2.core.account[requirements].updated", account)
        world.announce_thin(CAPABILITY_EVENT, account)


def create_link(world: World, params: Json) -> Json:
    """A form that one visit opens, within minutes."""
    account = world.get("v2.core.account", params["account"], param="account", status=400)
    use = params["use_case"]
    only_modelled(use, "type", "account_onboarding")
    if use["type"] != "account_onboarding" or "account_onboarding" not in use:
        raise Refusal("The test payments know account_onboarding only.", param="use_case.type")
    form = use["account_onboarding"]
    for name in ("refresh_url", "return_url"):
        if name in form or name == "refresh_url":
            require_url(form.get(name), f"use_case.account_onboarding.{name}")
    key = world.new_id("accountlink_")
    link = {
        "id": key,
        "object": "v2.core.account_link",
        "account": account["id"],
        "created": iso(world.now_s()),
        "expires_at": iso(world.now_s() + LINK_S),
        "livemode": False,
        "url": f"{world.public_url}/onboard/{key}",
        "use_case": use,
        "_expires_s": world.now_s() + LINK_S,
        "_visited": False,
        "_done": False,
    }
    return world.add(link)
