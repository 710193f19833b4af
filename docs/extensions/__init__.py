"""What the site makes of the package, its tests and its records while it is built."""
