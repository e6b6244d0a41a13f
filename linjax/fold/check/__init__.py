"""What a plan predicts, checked against what it does on rows of data."""
