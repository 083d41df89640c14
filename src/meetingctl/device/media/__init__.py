"""What is known of recordings: duration, size and format in a small database, and one picture of each."""
