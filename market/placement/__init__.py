"""Where models live on Macs. Read `market.placement.planner` first: an actor drives it."""
