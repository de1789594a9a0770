"""The two pages a person sees: paying for a checkout, and the form of somebody to be paid.

Plain HTML without scripts, readable in the dark, usable by keyboard, and clear about what it
is: no money moves.
"""

from __future__ import annotations

from html import escape

from actors.fake_stripe import accounts, checkout
from actors.fake_stripe.faults import Json, Refusal
from actors.fake_stripe.world import World

STYLE = """
:root{color-scheme:light dark}
body{font:1rem/1.5 system-ui,sans-serif;margin:0;min-height:100vh;display:grid;
place-items:center;background:light-dark(#f4f5f7,#15171a);color:light-dark(#1b1f24,#eceef0)}
main{box-sizing:border-box;width:min(26rem,92vw);margin:2rem 0;padding:2rem;border-radius:1rem;
background:light-dark(#fff,#1f2226);border:1px solid light-dark(#d9dde2,#383d43)}
.note{margin:0 0 1.5rem;padding:.6rem .9rem;border-radius:.5rem;font-weight:600;
background:light-dark(#fff3cd,#453a12);color:light-dark(#5c4400,#ffe8a3)}
h1{font-size:1.15rem;margin:0}.sum{font-size:2.2rem;font-weight:700;margin:.2rem 0 1.2rem}
form{display:grid;gap:.7rem}label{display:grid;gap:.25rem}
input{font:inherit;padding:.55rem .7rem;border-radius:.5rem;color:inherit;
background:light-dark(#fff,#15171a);border:1px solid light-dark(#8a929b,#7d858e)}
button,.button{font:inherit;font-weight:600;padding:.7rem 1rem;border-radius:.5rem;
border:1px solid light-dark(#8a929b,#7d858e);background:transparent;color:inherit;cursor:pointer;
text-align:center;text-decoration:none}
.main{background:light-dark(#1d5fd1,#8ab4ff);border-color:transparent;
color:light-dark(#fff,#10203b)}
:focus-visible{outline:3px solid light-dark(#1d5fd1,#8ab4ff);outline-offset:2px}
.bad{color:light-dark(#a3181b,#ff9c9a);font-weight:600}
p{margin:.6rem 0}
"""
SESSION_MARK = "{CHECKOUT_SESSION_ID}"


class Redirect(Exception):
    """The browser is to go elsewhere."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.url = url


def document(title: str, body: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>"
        '<p class="note" role="note">Test payments: no money moves.</p>'
        f"{body}</main></body></html>"
    )


def show_checkout(world: World, key: str) -> str:
    """The page behind a session's url. Raises Redirect when it has been paid."""
    session = world.get("checkout.session", key)
    if session["status"] == "complete":
        raise Redirect(_success(session))
    back = session["cancel_url"]
    link = f'<a class="button" href="{escape(back)}">Back</a>' if back else ""
    if session["status"] == "expired":
        return document(
            "Checkout expired",
            f"<h1>This checkout has expired</h1><p>Start a new one to pay.</p>{link}",
        )
    declined = (
        '<p class="bad" role="alert">The card was declined. Nothing was charged; try again.</p>'
        if session["_declined"]
        else ""
    )
    return document(
        "Checkout",
        f"<h1>{escape(session['_name'])}</h1>"
        f'<p class="sum">${session["amount_total"] / 100:,.2f}</p>{declined}'
        f'<form method="post" action="/pay/{escape(key)}">'
        '<button class="main" name="act" value="pay">Pay</button>'
        '<button name="act" value="decline">Decline the card</button>'
        f'<button name="act" value="pay_later">Pay by bank, arriving later</button>{link}</form>',
    )


def post_checkout(world: World, key: str, form: Json) -> str:
    """A button was pressed. Raises Redirect to where the shop wants the person."""
    session = world.get("checkout.session", key)
    if session["status"] == "complete":
        raise Redirect(_success(session))
    acts = {"pay": checkout.pay, "decline": checkout.decline, "pay_later": checkout.pay_later}
    act = acts.get(form["act"]) if isinstance(form.get("act"), str) else None
    if act is None:
        raise Refusal("Press one of the buttons of the page.", param="act")
    if session["status"] == "open":
        act(world, session)
    return show_checkout(world, key)


def show_onboarding(world: World, key: str) -> str:
    """The form behind an account link: its first visit only. Raises Redirect after that."""
    link = world.get("v2.core.account_link", key)
    if link["_visited"] or link["_expires_s"] <= world.now_s():
        raise Redirect(link["use_case"]["account_onboarding"]["refresh_url"])
    link["_visited"] = True
    return document(
        "Getting paid",
        "<h1>Getting paid</h1><p>Whatever you enter stays on this page; it is not stored.</p>"
        f'<form method="post" action="/onboard/{escape(key)}">'
        '<label>Name<input name="name" autocomplete="off" required value="Test Person"></label>'
        '<label>Account number<input name="account" autocomplete="off" required'
        ' value="000123456789"></label>'
        '<button class="main" name="act" value="complete">Finish: can be paid</button>'
        '<button name="act" value="review">Finish: under review</button>'
        '<button name="act" value="leave" formnovalidate>Leave unfinished</button></form>',
    )


def post_onboarding(world: World, key: str, form: Json) -> str:
    """The form was sent once. Raises Redirect back to the market."""
    link = world.get("v2.core.account_link", key)
    use = link["use_case"]["account_onboarding"]
    if not link["_visited"] or link["_done"]:
        raise Redirect(use["refresh_url"])
    states = {"complete": "active", "review": "pending", "leave": None}
    act = form.get("act")
    if not isinstance(act, str) or act not in states:
        raise Refusal("Press one of the buttons of the form.", param="act")
    link["_done"] = True
    state = states[act]
    if state is not None:
        account = world.get("v2.core.account", link["account"])
        accounts.set_state(world, account, state)
    if "return_url" in use:
        raise Redirect(use["return_url"])
    return document("Done", "<h1>Done</h1><p>You can close this page.</p>")


def _success(session: Json) -> str:
    return str(session["success_url"]).replace(SESSION_MARK, session["id"])
