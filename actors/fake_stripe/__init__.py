"""A payment processor that moves no money: Stripe's HTTP on loopback, for trying and testing.

`coster up` runs it when no Stripe key is given; the doorway `actors.stripe.processor` talks
to it exactly as to Stripe. Read in this order:

- `app`: one request's way, from bytes to a durable answer
- `routes`: what can be asked; `validation`: what Stripe's own types say about a question
- `world`: every object, the clock, the outbox; `state_file`: how it survives a restart
- `checkout`, `refunds`, `disputes`, `transfers`, `accounts`, `ledger`: what the objects do
- `events`, `webhooks`: what is announced, and how it is delivered, late, twice or never
- `knobs`, `acts`: how a test misbehaves and plays the other people
- `pages`: the two hosted pages a person sees
- `server`: the app on a socket inside a running loop
"""
