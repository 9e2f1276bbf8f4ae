"""The engine of meltd: it knows ecash, mints, the store and money, and nothing of the daemon around it."""
