"""What several tasks are made of: drawing, speech, text, scoring, data in memory."""
