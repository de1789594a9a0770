"""The simulated market itself: live router and ledger, Macs and a gateway in virtual time."""
