"""From ``solutions/``, what an author edits, to ``notebooks/``, what a learner is given."""
