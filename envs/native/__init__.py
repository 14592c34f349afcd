"""The default engine: MuJoCo's own C batch."""
