"""Who works with optizoo's optimizers as with torch's: one file for each, named in its ``WORKS_WITH``."""
