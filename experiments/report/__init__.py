"""One page that shows what runs and sweeps came to: HTML without other files, and Markdown."""
