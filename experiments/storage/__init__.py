"""What a run leaves on disk: its folder, its rows, and how it was made."""
