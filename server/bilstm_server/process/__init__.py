"""What belongs to the process as a whole: its memory, its standard error, its threads."""
