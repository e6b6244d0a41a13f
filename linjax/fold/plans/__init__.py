"""What widths and ranks cost, and what they predict."""
