"""What runs beside learner code (and, marked trusted, the same training without it)."""
