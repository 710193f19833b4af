"""optizoo."""
