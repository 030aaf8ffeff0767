"""The worst that a search finds: draft."""
