"""The site; its pages are Markdown, and what they take from the package is made by :mod:`docs.extensions`."""
