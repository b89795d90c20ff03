"""The bench: cases are planned, run into records, compared with the arm without tricks, and reported."""
