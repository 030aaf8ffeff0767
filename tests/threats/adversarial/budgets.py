"""Budgets of the attacks that have one of their own, small enough for tests."""

BUDGETS = {
    "square": {"queries": 200},
    "square_l2": {"queries": 60},
    "spsa": {"samples": 16},
    "hop_skip_jump": {"steps": 3, "samples": 20, "tries": 5},
    "hop_skip_jump_l2": {"steps": 3, "samples": 20, "tries": 5},
    # What "steps" alone would leave unconverged, or without a draw.
    "cw_l2": {"steps": 30, "searches": 2, "learning_rate": 0.05, "initial_c": 1.0},
    "autoattack": {"steps": 5, "queries": 30, "images_at_once": 4},
    "autoattack_l2": {"steps": 5, "queries": 30, "images_at_once": 4},
    "fab": {"restarts": 2},
    "fab_l2": {"restarts": 2},
}
