"""``course report``: what a class's verdicts say, as one HTML page and a CSV file a notebook."""
