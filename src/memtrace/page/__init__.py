"""Pages of HTML: one file each, that needs nothing else and fetches nothing."""
