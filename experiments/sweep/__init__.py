"""Many runs from one command: trained and scored together, spread, and taken up after a kill."""
