"""What a trial leaves behind: its record, where it lies, how it is read, what is left out of it."""
