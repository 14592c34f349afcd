"""How fast the parts are, each beside its peers, in one run on one machine."""
