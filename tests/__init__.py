"""The tests of optizoo; they read as its specification."""
