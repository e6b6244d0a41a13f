"""What pytest must not import here."""

collect_ignore = ["fuzz.py"]  # needs atheris, which the tests do without
